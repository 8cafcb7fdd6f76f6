//! Files and functions that a reader can hold in the head.

use super::{Finding, Source};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines that a source file may have.
const FILE_LINES: usize = 600;
/// Lines that a function may have; tables inside it are not counted.
const FUNCTION_LINES: usize = 70;
/// The endings of files that people write as programs.
const PROGRAMS: &[&str] = &[".rs", ".py", ".sh", ".c", ".h", ".js", ".ts"];

/// Files and functions that are too long.
pub(super) fn check(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    if PROGRAMS.iter().any(|ending| file.path.ends_with(ending)) && lines > FILE_LINES {
        findings.push(file.finding(0, format!("{lines} lines; a source file has at most {FILE_LINES}")));
    }
    if let Some(syntax) = &file.syntax {
        let mut functions = Functions { file, findings };
        functions.visit_file(syntax);
        findings = functions.findings;
    }
    findings
}

struct Functions<'a> {
    file: &'a Source,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let start = signature.span().start().line;
        let mut tables = Tables::default();
        tables.visit_block(body);
        let lines = body.span().end().line + 1 - start - tables.lines;
        if lines > FUNCTION_LINES {
            let name = &signature.ident;
            let message = format!("function {name} has {lines} lines; at most {FUNCTION_LINES}, tables apart");
            self.findings.push(self.file.finding(start, message));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.measure(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Counts the lines of tables: constants, array literals, and matches whose arms are all one line each.
#[derive(Default)]
struct Tables {
    lines: usize,
}

impl Tables {
    fn count(&mut self, table: &dyn Spanned) {
        self.lines += table.span().end().line - table.span().start().line;
    }
}

impl<'ast> Visit<'ast> for Tables {
    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.count(item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.count(item);
    }

    fn visit_expr_array(&mut self, array: &'ast syn::ExprArray) {
        self.count(array);
    }

    fn visit_expr_match(&mut self, table: &'ast syn::ExprMatch) {
        let is_row = |arm: &syn::Arm| arm.span().start().line == arm.span().end().line;
        match table.arms.iter().all(is_row) {
            true => self.count(table),
            false => visit::visit_expr_match(self, table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn a_long_file_is_refused_and_a_long_document_is_not() {
        let lines = |n: usize| "\n".repeat(n);
        assert!(messages(check, "a.py", &lines(600)).is_empty());
        assert_eq!(messages(check, "a.py", &lines(601)), ["a.py: 601 lines; a source file has at most 600"]);
        assert!(messages(check, "a.md", &lines(601)).is_empty());
    }

    #[test]
    fn a_long_function_is_refused_wherever_it_stands() {
        let long = |n: usize| format!("fn f(&self) {{\n{}}}", "g();\n".repeat(n));
        for (before, after) in [("struct S; impl S {\n", "\n}"), ("trait T {\n", "\n}"), ("mod m { impl S {\n", "\n}}")]
        {
            let text = |n| format!("{before}{}{after}", long(n));
            assert!(messages(check, "a.rs", &text(68)).is_empty());
            let expected = "a.rs:2: function f has 71 lines; at most 70, tables apart";
            assert_eq!(messages(check, "a.rs", &text(69)), [expected]);
        }
    }

    #[test]
    fn the_rows_of_a_table_do_not_count() {
        let table = format!("fn f() {{\nconst T: [u8; 100] = [\n{}];\n}}", "1,\n".repeat(100));
        assert!(messages(check, "a.rs", &table).is_empty());
        let rows: String = (0..100).map(|n| format!("{n} => {n},\n")).collect();
        assert!(messages(check, "a.rs", &format!("fn f() {{ match x {{\n{rows}}} }}")).is_empty());
        let arms: String = (0..40).map(|n| format!("{n} => {{\n g()\n}}\n")).collect();
        assert_eq!(messages(check, "a.rs", &format!("fn f() {{ match x {{\n{arms}}} }}")).len(), 1);
    }
}
