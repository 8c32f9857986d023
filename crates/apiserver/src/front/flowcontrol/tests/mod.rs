//! Levels, borrowing and the whole of flow control, with a clock that stands still until it is moved.

mod fairness;
mod levels;
