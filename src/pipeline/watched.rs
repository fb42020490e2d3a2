//! The HTTP endpoint beside a run.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Meter;
use crate::config::HttpConfig;
use crate::error::Result;
use crate::http;

/// How long requests under way have once the run is over.
const FAREWELL: Duration = Duration::from_millis(500);

/// The endpoint beside a run: there before a store or a model is waited for, and until the last part is published.
pub(super) struct Watched(Option<(oneshot::Sender<()>, JoinHandle<()>)>);

impl Watched {
    /// Opens the port, if one is asked for.
    pub(super) async fn start(config: HttpConfig, meter: &Arc<Meter>) -> Result<Self> {
        let HttpConfig::Listen(listen) = config else { return Ok(Self(None)) };
        let listener = http::bind(listen).await?;
        let (stop, stopped) = oneshot::channel();
        let meter = Arc::clone(meter);
        let server = http::serve(listener, Arc::new(move || meter.figures()), async move { drop(stopped.await) });
        Ok(Self(Some((stop, tokio::spawn(server)))))
    }

    /// Closes it.
    pub(super) async fn end(self) {
        if let Some((stop, server)) = self.0 {
            drop(stop);
            // Who keeps a connection open does not keep the process.
            drop(tokio::time::timeout(FAREWELL, server).await);
        }
    }
}
