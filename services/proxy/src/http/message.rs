//! Requests and answers, free of actix's types.

use std::sync::Arc;

use bytes::Bytes;

/// A whole request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// As in the request line, upper case.
    pub method: String,
    /// Path as it was sent, percent-encoding and all.
    pub path: String,
    /// Query string as it was sent, without its `?`.
    pub query: String,
    /// Headers with lower-case names; values that are no text are left out.
    pub headers: Vec<(String, String)>,
    /// The body; a GET may have one too.
    pub body: Bytes,
    /// Names the request in logs and in the answer.
    pub request_id: String,
}

impl HttpRequest {
    /// The first header of a lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

/// A whole answer; its body is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// A JSON document.
    pub body: String,
}

/// An HTTP interface.
#[async_trait::async_trait]
pub trait Surface: Send + Sync + 'static {
    /// Largest body that a client may send, in bytes.
    fn max_body(&self) -> usize;

    /// A new id for a request.
    fn request_id(&self) -> String;

    /// Answers a request. Runs on the main runtime and goes on when the client leaves.
    async fn answer(self: Arc<Self>, request: HttpRequest) -> HttpAnswer;

    /// The answer to a request that never reached [`Surface::answer`]: its body could not be read.
    fn refused(&self, request_id: &str, status: u16, reason: &str) -> HttpAnswer;
}
