//! Against a whole server.
