//! The cases, by subject.

mod dns;
mod services;
