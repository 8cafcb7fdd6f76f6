//! Any bytes as an imatrix, GGUF or of the older form: all that it knows of any matrix.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smidgen_compress::calibration::Calibration;
use std::hint::black_box;

fuzz_target!(|data: &[u8]| {
    let Ok(calibration) = Calibration::read(data) else { return };
    for name in calibration.names() {
        let importance = calibration.importance(name).expect("a name that is listed");
        assert!(importance.iter().all(|mean| !mean.is_nan() && *mean >= 0.0), "{name}");
        black_box(calibration.moment(name).map(|moment| moment.square()));
    }
});
