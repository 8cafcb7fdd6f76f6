//! An independent oracle: GGUF bytes to tokens in f32, read top to bottom. It shares no code with the engine.
