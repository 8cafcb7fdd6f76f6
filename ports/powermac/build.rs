//! Gives the linker the layout of the program.

fn main() {
    println!("cargo:rustc-link-arg=-Tlayout.x");
    if std::env::var_os("CARGO_FEATURE_DISC").is_some() {
        println!("cargo:rustc-link-arg=--defsym=load_address=0x01000000");
    }
    println!("cargo:rerun-if-changed=layout.x");
    println!("cargo:rerun-if-changed=build.rs");
}
