//! /logs/: the files under /var/log, as Go's file server shows them (net/http.FileServer).

use super::text;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use knarr_client::Body;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;

/// What is shown.
pub(super) const ROOT: &str = "/var/log";
const BLOCK: usize = 64 << 10;

/// Serves what `request` (the decoded path below `/logs/`) names under `root`.
pub(super) async fn serve(root: &'static str, request: String, method: Method) -> Response<Body> {
    match tokio::task::spawn_blocking(move || open(Path::new(root), &request, &method)).await {
        Ok(response) => response,
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
    }
}

fn open(root: &Path, request: &str, method: &Method) -> Response<Body> {
    let Some(path) = resolve(root, request) else {
        return text(StatusCode::BAD_REQUEST, "invalid URL path\n");
    };
    let found = File::open(&path).and_then(|file| file.metadata().map(|meta| (file, meta)));
    let (file, meta) = match found {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return text(StatusCode::FORBIDDEN, "403 Forbidden\n");
        }
        Err(_) => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    if meta.is_dir() {
        // Links in the list are relative, so that the path must end in a slash.
        return match request.is_empty() || request.ends_with('/') {
            true => list(&path),
            false => moved(&format!("{}/", path.file_name().unwrap_or_default().to_string_lossy())),
        };
    }
    if request.ends_with('/') {
        return moved(&format!("../{}", path.file_name().unwrap_or_default().to_string_lossy()));
    }
    let mut response =
        Response::new(if *method == Method::HEAD { Body::empty() } else { stream(file, meta.len()) });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(meta.len()));
    response
}

/// The path under `root`; `None` where the request would lead out of it. Links are followed, as upstream does.
fn resolve(root: &Path, request: &str) -> Option<PathBuf> {
    let mut path = root.to_owned();
    for part in Path::new(request).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn moved(place: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(place) = HeaderValue::from_str(place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

fn list(dir: &Path) -> Response<Body> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "Error reading directory\n");
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    let mut page =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        let link =
            percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC).to_string();
        // A slash separates, and what is usual in names need not be encoded.
        let link = link.replace("%2F", "/").replace("%2E", ".").replace("%2D", "-").replace("%5F", "_");
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let shown = shown.replace('"', "&#34;").replace('\'', "&#39;");
        let _ = writeln!(page, "<a href=\"{link}\">{shown}</a>");
    }
    page.push_str("</pre>\n");
    let mut response = Response::new(Body::full(page));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

/// As much of the file as there was when it was opened.
fn stream(file: File, len: u64) -> Body {
    let (send, mut receive) = mpsc::channel::<Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>(4);
    tokio::task::spawn_blocking(move || {
        let mut file = file.take(len);
        loop {
            let mut block = vec![0; BLOCK];
            match file.read(&mut block) {
                Ok(0) => return,
                Ok(n) => {
                    block.truncate(n);
                    if send.blocking_send(Ok(block.into())).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = send.blocking_send(Err(error.into()));
                    return;
                }
            }
        }
    });
    Body::stream(futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_and_directories_are_shown_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a b")).unwrap();
        std::fs::write(dir.path().join("x<y"), "hello").unwrap();
        let get = async |path: &str| {
            let response = open(dir.path(), path, &Method::GET);
            let (code, place) = (response.status().as_u16(), response.headers().get("location").cloned());
            let body = response.into_body().collect().await.unwrap();
            (code, place, String::from_utf8_lossy(&body).into_owned())
        };
        let (code, _, page) = get("").await;
        assert_eq!(code, 200);
        assert!(page.contains("<a href=\"a%20b/\">a b/</a>\n<a href=\"x%3Cy\">x&lt;y</a>\n</pre>"), "{page}");
        assert_eq!(get("x<y").await, (200, None, "hello".to_owned()));
        let (code, place, _) = get("a b").await;
        assert_eq!((code, place.unwrap().to_str().unwrap()), (301, "a b/"));
        assert_eq!(get("a b/").await.0, 200);
        assert_eq!(get("../x").await.0, 400);
        assert_eq!(get("none").await.0, 404);
    }
}
