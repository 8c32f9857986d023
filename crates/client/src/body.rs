//! Request and response bodies: nothing, buffers handed over without copying, or a stream of buffers.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::StreamExt;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The error of a body that broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A stream of buffers.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

/// An HTTP body.
pub enum Body {
    /// Known in whole: the buffers follow each other. Empty for no body.
    Chunks(VecDeque<Bytes>),
    /// Known as it comes.
    Stream(BodyStream),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::Chunks(VecDeque::new())
    }

    /// One buffer.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Chunks(VecDeque::from([bytes.into()]))
    }

    /// Several buffers that make up one body of known length.
    pub fn chunks(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        Self::Chunks(chunks.into_iter().filter(|c| !c.is_empty()).collect())
    }

    /// A stream.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// The length in bytes, if it is known.
    pub fn known_len(&self) -> Option<u64> {
        match self {
            Self::Chunks(chunks) => Some(chunks.iter().map(|c| c.len() as u64).sum()),
            Self::Stream(_) => None,
        }
    }

    /// The next buffer.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        match self {
            Self::Chunks(chunks) => chunks.pop_front().map(Ok),
            Self::Stream(stream) => stream.next().await,
        }
    }

    /// The whole body in one buffer; no copy when it is one already.
    pub async fn collect(mut self) -> Result<Bytes, BodyError> {
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await.transpose()? else { return Ok(first) };
        let mut all = BytesMut::from(&first[..]);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.next().await.transpose()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Chunks(chunks) => Poll::Ready(chunks.pop_front().map(|c| Ok(http_body::Frame::data(c)))),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|r| r.map(http_body::Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Chunks(chunks) if chunks.is_empty())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.known_len().map_or_else(http_body::SizeHint::default, http_body::SizeHint::with_exact)
    }
}
