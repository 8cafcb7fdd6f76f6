"""Writes crates/core/src/quant/grids.rs, the grids of the i-quants, from the data of the `gguf` package.

Usage: python tools/quant_grids.py > crates/core/src/quant/grids.rs
Needs the package gguf (see tools/test_requirements.txt).
"""

from gguf import quants

HEADER = """//! The grids of the i-quants (ggml `iq2xxs_grid` and so on), made by `tools/quant_grids.py`.
//!
//! An entry packs one point, its first coordinate lowest: of eight codes of two bits, or of four of three bits, one to
//! each half of a byte. What a code stands for is said where the grid is used.
"""


def main():
    print(HEADER, end="")
    for name in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]:
        kind = getattr(quants, name)
        n_points, n_coordinates = kind.grid_shape
        packed = bytes.fromhex(kind.grid_hex.decode())
        assert len(packed) == 2 * n_points
        bits = "two" if len(kind.grid_map) == 3 else "three"
        number = {8: "eight", 4: "four"}[n_coordinates]
        print(f"\n/// The points of {name}: {number} codes of {bits} bits.")
        print(f"#[rustfmt::skip]\npub(super) static {name}: [u16; {n_points}] = [")
        entries = [f"0x{packed[2 * i] | packed[2 * i + 1] << 8:04x}," for i in range(n_points)]
        for first in range(0, n_points, 14):
            print("    " + " ".join(entries[first : first + 14]))
        print("];")


if __name__ == "__main__":
    main()
