//! A Rust file as a flat list of tokens, so that checks also see what stands inside macros.

use super::Source;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::ops::RangeInclusive;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One token: a name, a sign, a literal, or the opening of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// Every token of `file` in order; groups appear as their two delimiters.
pub(super) fn flat(file: &Source) -> Vec<Token> {
    let mut tokens = Vec::new();
    if file.syntax.is_some() {
        // The file has been parsed once, so its tokens can be read.
        flatten(file.text.parse().unwrap_or_default(), &mut tokens);
    }
    tokens
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.into(), line });
                flatten(group.stream(), tokens);
                tokens.push(Token { text: close.into(), line: group.span_close().start().line });
            }
            TokenTree::Ident(name) => tokens.push(Token { text: name.to_string(), line }),
            TokenTree::Punct(sign) => tokens.push(Token { text: sign.as_char().into(), line }),
            TokenTree::Literal(literal) => tokens.push(Token { text: literal.to_string(), line }),
        }
    }
}

/// The lines of `file` that only tests compile: a test file, or items under `#[cfg(test)]` or `#[test]`.
pub(super) fn test_lines(file: &Source) -> Vec<RangeInclusive<usize>> {
    if file.path.ends_with("/tests.rs") || file.path.contains("/tests/") {
        return vec![1..=usize::MAX];
    }
    let mut items = TestItems::default();
    if let Some(syntax) = &file.syntax {
        items.visit_file(syntax);
    }
    items.lines
}

#[derive(Default)]
struct TestItems {
    lines: Vec<RangeInclusive<usize>>,
}

impl TestItems {
    fn add(&mut self, attributes: &[syn::Attribute], item: &dyn Spanned) {
        let is_test = |attribute: &syn::Attribute| {
            attribute.path().is_ident("test")
                || (attribute.path().is_ident("cfg")
                    && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test")))
        };
        if attributes.iter().any(is_test) {
            self.lines.push(item.span().start().line..=item.span().end().line);
        }
    }
}

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.add(&item.attrs, item);
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.attrs, item);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.attrs, item);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.add(&item.attrs, item);
        visit::visit_item_impl(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add(&item.attrs, item);
    }
}

/// The tokens that a product is made of: those outside tests.
pub(super) fn product(file: &Source) -> Vec<Token> {
    let tests = test_lines(file);
    let mut tokens = flat(file);
    tokens.retain(|token| !tests.iter().any(|lines| lines.contains(&token.line)));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_inside_macros_are_seen_and_tests_are_not_product() {
        let text = "macro_rules! m { () => { unsafe { 1 } } }\n#[cfg(test)]\nmod tests {\n fn hidden() {}\n}\n";
        let Ok(file) = Source::new("crates/core/src/a.rs", text) else { panic!("it parses") };
        let names = |tokens: Vec<Token>| tokens.into_iter().map(|token| token.text).collect::<Vec<_>>();
        assert!(names(flat(&file)).contains(&"hidden".into()));
        let product = names(product(&file));
        assert!(product.contains(&"unsafe".into()), "the body of a macro is read");
        assert!(!product.contains(&"hidden".into()), "a test module is left out");
    }
}
