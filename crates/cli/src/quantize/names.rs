//! Names of types and recipes as people write them, and what they may have meant.

use smidgen_compress::recipe::Recipe;
use smidgen_compress::recipe::fallback::Fallback;
use smidgen_core::quant::Type;

/// Names offered to somebody who wrote another one.
const N_OFFERED: usize = 3;

/// The recipe called `name`.
///
/// # Errors
/// The names that come nearest, when it is none.
pub fn recipe(name: &str) -> Result<Recipe, String> {
    Recipe::find(name).ok_or_else(|| unknown(name, &Recipe::names()))
}

/// The weight type called `name`; of a mixture's name, the type that it is mostly of.
///
/// # Errors
/// The names that come nearest, when it is none.
pub fn weight_type(name: &str) -> Result<Type, String> {
    let named = Type::from_name(name).filter(|kind| kind.is_supported());
    named.ok_or_else(|| {
        let types = smidgen_core::quant::TYPES.iter().filter(|row| row.0.is_supported());
        unknown(name, &types.map(|row| row.2).collect::<Vec<_>>())
    })
}

/// What `--fallback` names.
///
/// # Errors
/// The names that come nearest, when it is nothing.
pub fn fallback(name: &str) -> Result<Fallback, String> {
    match name.to_ascii_lowercase().as_str() {
        "llama" => Ok(Fallback::Llama),
        "any" => Ok(Fallback::AnyWidth),
        _ => weight_type(name).map(Fallback::To),
    }
}

/// Says that there is no `name`, and which of `known` it may have meant.
fn unknown(name: &str, known: &[&str]) -> String {
    let wanted = name.to_ascii_uppercase();
    let mut nearest: Vec<&str> = known.to_vec();
    nearest.sort_by_key(|known| strsim::damerau_levenshtein(&wanted, known));
    nearest.truncate(N_OFFERED);
    format!("there is no type '{}'; the nearest names are {}", name.escape_default(), nearest.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(recipe("q4_k_m").unwrap().name(), "Q4_K_M");
        assert_eq!(recipe("Q4_K").unwrap().name(), "Q4_K_M");
        assert_eq!(weight_type("q4_k"), Ok(Type::Q4_K));
        assert_eq!(fallback("LLAMA"), Ok(Fallback::Llama));
        assert_eq!(fallback("f16"), Ok(Fallback::To(Type::F16)));
    }

    #[test]
    fn who_mistypes_is_told_what_there_is() {
        assert!(recipe("Q4KM").unwrap_err().contains("Q4_K_M"));
        assert!(recipe("IQ2XXS").unwrap_err().contains("IQ2_XXS"));
        assert!(weight_type("i8").unwrap_err().contains("there is no type 'i8'"), "weights are never plain integers");
        assert!(fallback("q8").unwrap_err().contains("Q8_0"));
    }
}
