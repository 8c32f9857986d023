//! Probes, lifecycle hooks and the handlers they share.

use super::containers::port_number;
use crate::util::{Errs, Items, Number, Text};
use knarr_api::IntOrString;
use knarr_api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;

#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

/// Errors of a liveness or startup probe.
pub fn liveness_or_startup(probe: &Probe, grace: Option<i64>, path: &Path) -> ErrorList {
    let mut errs = any(probe, grace, path);
    if probe.success_threshold.number() != 1 {
        errs.add_invalid(&path.child("successThreshold"), probe.success_threshold.number(), "must be 1");
    }
    errs
}

/// Errors of a readiness probe.
pub fn readiness(probe: &Probe, grace: Option<i64>, path: &Path) -> ErrorList {
    let mut errs = any(probe, grace, path);
    if let Some(seconds) = probe.termination_grace_period_seconds {
        let detail = "must not be set for readinessProbes";
        errs.add_invalid(&path.child("terminationGracePeriodSeconds"), seconds, detail);
    }
    errs
}

fn any(probe: &Probe, grace: Option<i64>, path: &Path) -> ErrorList {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    let mut errs = handler_errors(&handler, grace, path);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if value.number() < 0 {
            errs.add_negative(&path.child(field), value.number());
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errs.add_invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
    errs
}

/// Errors of a container's lifecycle.
pub fn lifecycle(lifecycle: &Lifecycle, grace: Option<i64>, os: Option<&str>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(LifecycleHandler { exec, http_get, sleep, tcp_socket }) = hook {
            let handler = Handler {
                exec: exec.as_ref(),
                http: http_get.as_ref(),
                tcp: tcp_socket.as_ref(),
                sleep: sleep.as_ref(),
                grpc: None,
            };
            errs.extend(handler_errors(&handler, grace, &path.child(field)));
        }
    }
    if let Some(signal) = &lifecycle.stop_signal {
        let path = path.child("stopSignal");
        match os {
            None => errs.add_forbidden(&path, "may not be set for containers with empty `spec.os.name`"),
            Some("windows") if !["SIGKILL", "SIGTERM"].contains(&signal.as_str()) => {
                errs.add_not_supported(&path, signal, &["SIGKILL", "SIGTERM"]);
            }
            Some("linux") if !SIGNALS.contains(&signal.as_str()) => {
                errs.add_not_supported(&path, signal, SIGNALS);
            }
            Some(_) => {}
        }
    }
    errs
}

const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

fn handler_errors(handler: &Handler<'_>, grace: Option<i64>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mut count = 0;
    let mut first = |errs: &mut ErrorList, field: &'static str| {
        count += 1;
        if count > 1 {
            errs.add_forbidden(&path.child(field), "may not specify more than 1 handler type");
        }
        count == 1
    };
    if let Some(exec) = handler.exec
        && first(&mut errs, "exec")
        && exec.command.items().is_empty()
    {
        errs.add_required(&path.child("exec").child("command"), "");
    }
    if let Some(http) = handler.http
        && first(&mut errs, "httpGet")
    {
        let path = path.child("httpGet");
        if http.path.text().is_empty() {
            errs.add_required(&path.child("path"), "");
        }
        port_or_name(&mut errs, &http.port, &path.child("port"));
        if !["HTTP", "HTTPS"].contains(&http.scheme.text()) {
            errs.add_not_supported(&path.child("scheme"), http.scheme.text(), &["HTTP", "HTTPS"]);
        }
        for header in http.http_headers.items() {
            errs.add_all_at(
                || path.child("httpHeaders"),
                &header.name,
                validate::http_header_name(&header.name),
            );
        }
    }
    if let Some(tcp) = handler.tcp
        && first(&mut errs, "tcpSocket")
    {
        port_or_name(&mut errs, &tcp.port, &path.child("tcpSocket").child("port"));
    }
    if let Some(grpc) = handler.grpc
        && first(&mut errs, "grpc")
    {
        port_number(&mut errs, grpc.port, || path.child("grpc").child("port"));
    }
    if let Some(sleep) = handler.sleep
        && first(&mut errs, "sleep")
        && let Some(grace) = grace
        && !(0..=grace).contains(&sleep.seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errs.add_invalid(&path.child("sleep"), sleep.seconds, detail);
    }
    if count == 0 {
        errs.add_required(path, "must specify a handler type");
    }
    errs
}

/// Errors of a port given by number or by name.
pub fn port_or_name(errs: &mut ErrorList, port: &IntOrString, path: &Path) {
    match port {
        IntOrString::Int(number) => port_number(errs, *number, || path.clone()),
        IntOrString::String(name) => errs.add_all(path, name, validate::port_name(name)),
    }
}
