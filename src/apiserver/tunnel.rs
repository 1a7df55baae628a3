//! Two upgraded connections, joined: what comes in on one goes out on the other.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::server::ApiServer;

/// Bytes that are read at once.
const PIECE: usize = 16 << 10;
/// How long a client may take to leave when the other side has said its last.
const LINGER: Duration = Duration::from_secs(5);

/// Joins a client's connection with that of a server behind this one, in a task of its own, until the latter ends or both have nothing
/// more to say.
pub fn join(server: &ApiServer, client: OnUpgrade, other: OnUpgrade) {
    let shutdown = server.shutdown.clone();
    server.tasks.spawn(async move {
        let joined = async {
            match futures::future::try_join(client, other).await {
                Ok((client, other)) => both(TokioIo::new(client), TokioIo::new(other)).await,
                Err(error) => tracing::debug!(%error, "an upgrade failed"),
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = joined => {}
        }
    });
}

/// Each direction ends by itself: one that breaks takes nothing away from what is still under way in the other, which
/// `tokio::io::copy_bidirectional` would.
async fn both<C, O>(client: C, other: O)
where
    C: AsyncRead + AsyncWrite,
    O: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (from_other, to_other) = tokio::io::split(other);
    let up = pump(from_client, to_other);
    let down = pump(from_other, to_client);
    tokio::pin!(up, down);
    tokio::select! {
        biased;
        () = &mut down => {
            // A connection that is closed while bytes of the client wait in it is reset, and what was sent last is lost.
            let _left = tokio::time::timeout(LINGER, up).await;
        }
        () = &mut up => down.await,
    }
}

/// Carries everything that comes, then its end. A connection that breaks off has said what it had to say.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..count]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // Whoever is gone needs no end.
    let _told = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio_test::io::Builder;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_came_before_a_broken_end_is_passed_on() {
        let (mut client, near) = tokio::io::duplex(4);
        // TLS that ends without a goodbye.
        let other = Builder::new().read(b"a long answer").read_error(io::ErrorKind::UnexpectedEof.into()).build();
        let (_, text) = tokio::join!(both(near, other), async move {
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            text
        });
        assert_eq!(text, "a long answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_said_everything_still_gets_its_answer() {
        let (mut client, near) = tokio::io::duplex(64);
        let (far, mut other) = tokio::io::duplex(64);
        let talk = async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            other.read_to_string(&mut question).await.unwrap();
            other.write_all(b"answer").await.unwrap();
            drop(other);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (question, answer)
        };
        let ((), said) = tokio::join!(both(near, far), talk);
        assert_eq!(said, ("question".to_owned(), "answer".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn writing_to_a_side_that_is_gone_does_not_cut_the_other_direction() {
        let (mut client, near) = tokio::io::duplex(1024);
        let other = Builder::new()
            .write_error(io::ErrorKind::BrokenPipe.into())
            .wait(Duration::from_secs(1))
            .read(b"the end of the answer")
            .build();
        client.write_all(b"too late").await.unwrap();
        let (_, text) = tokio::join!(both(near, other), async move {
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            text
        });
        assert_eq!(text, "the end of the answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_leave_is_left() {
        let (_client, near) = tokio::io::duplex(64);
        let (far, other) = tokio::io::duplex(64);
        drop(other);
        let began = tokio::time::Instant::now();
        both(near, far).await;
        assert_eq!(began.elapsed(), LINGER);
    }
}
