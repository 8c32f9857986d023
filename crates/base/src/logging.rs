//! Log output: one line an event on standard error, filtered by `KNARR_LOG` (tracing's filter syntax).

/// The variable that holds the log filter, `info` when unset.
pub const LOG_FILTER_ENV: &str = "KNARR_LOG";

/// Installs the process-wide log writer. Called once, by the binary.
pub fn init(default_filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env(LOG_FILTER_ENV)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default_filter));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// A value that must not reach a log: prints as `[secret]`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T>(pub T);

impl<T> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}
