//! The cases, by subject.

mod services;
