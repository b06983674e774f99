//! Vectors of texts, for every dialect.

use hublabio_runtime::Error;
use hublabio_runtime::node::{EmbedRequest, RequestId};
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::state::App;

/// Vectors of texts, `[prompts][d_model]`. Dropped, as when the connection is gone, it gives the rest up within a step.
///
/// # Errors
/// Those of [`Node::embed`](hublabio_runtime::node::Node::embed).
pub async fn vectors(app: &App, request: EmbedRequest) -> Result<Vec<Vec<f32>>, ApiError> {
    let (reply, answer) = oneshot::channel();
    // If nobody waits, nobody minds.
    let id = app.node().submit_embed(request, move |vectors| drop(reply.send(vectors)))?;
    let _given_up = GiveUp { app, id };
    Ok(answer.await.unwrap_or(Err(Error::ShuttingDown))?)
}

/// Gives a request up when it goes; of one that has ended nothing is left to give up.
struct GiveUp<'a> {
    app: &'a App,
    id: RequestId,
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.app.node().cancel(self.id);
    }
}
