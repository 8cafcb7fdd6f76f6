"""Writes crates/core/src/tokenizer/unicode_table.rs: the class of every code point, run-length coded.

Usage: python tools/unicode_classes.py > crates/core/src/tokenizer/unicode_table.rs
Uses the `unicodedata2` package where it is installed (newer Unicode than Python's own), else `unicodedata`.
"""

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

UPPER, LOWER, LETTER, MARK, NUMBER, PUNCTUATION, SYMBOL, SPACE, OTHER, PAIRS = range(10)
BY_CATEGORY = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": LETTER, "Lo": LETTER}
BY_FIRST_LETTER = {"M": MARK, "N": NUMBER, "P": PUNCTUATION, "S": SYMBOL}
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
END = 0x110000
INDEX_STEP = 32


def class_of(code):
    if code in WHITE_SPACE:
        return SPACE
    category = unicodedata.category(chr(code))
    return BY_CATEGORY.get(category, BY_FIRST_LETTER.get(category[0], OTHER))


def runs():
    """Yields (start, length, class); capitals and small letters that alternate make one run of class PAIRS."""
    code = 0
    while code < END:
        pairs = code
        while pairs + 1 < END and (class_of(pairs), class_of(pairs + 1)) == (UPPER, LOWER):
            pairs += 2
        if pairs - code >= 4:
            yield code, pairs - code, PAIRS
            code = pairs
            continue
        end = code
        while end < END and class_of(end) == class_of(code):
            end += 1
        yield code, end - code, class_of(code)
        code = end


def coded(length, kind):
    """The class in the high four bits; in the low ones length - 1, or 14 or 15 and it in one or three more bytes."""
    more = length - 1
    if more < 14:
        return [kind << 4 | more]
    if more < 256:
        return [kind << 4 | 14, more]
    return [kind << 4 | 15, more & 255, more >> 8 & 255, more >> 16]


def print_array(doc, name, kind, values, per_line):
    print(f"\n/// {doc}\n#[rustfmt::skip]\npub(super) static {name}: [{kind}; {len(values)}] = [")
    for at in range(0, len(values), per_line):
        print("    " + ", ".join(str(value) for value in values[at : at + per_line]) + ",")
    print("];")


def main():
    data, starts, offsets = [], [], []
    for number, (start, length, kind) in enumerate(runs()):
        if number % INDEX_STEP == 0:
            starts.append(start)
            offsets.append(len(data))
        data += coded(length, kind)
    print(f"//! Classes of all code points of Unicode {unicodedata.unidata_version}; made by `tools/unicode_classes.py`, not by hand.")
    print_array("Runs from code point 0 on: class and length, coded as the script says.", "RUNS", "u8", data, 26)
    print_array(f"The first code point of every {INDEX_STEP}th run.", "STARTS", "u32", starts, 14)
    print_array("Where in `RUNS` it lies.", "OFFSETS", "u16", offsets, 18)


main()
