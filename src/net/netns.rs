//! Running netlink requests inside another network namespace.

use std::fs::File;
use std::io;
use std::path::Path;

use rtnetlink::Handle;
use tokio::sync::oneshot;

/// Runs `work` with a netlink handle of the namespace pinned at `path`, on an OS thread of its own: a thread that has
/// entered another namespace must never run anything else.
pub async fn within<T, F, W>(path: &Path, work: W) -> io::Result<T>
where
    T: Send + 'static,
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = T>,
{
    let namespace = File::open(path)?;
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let result = enter_and_run(&namespace, work);
        // The caller gave up: nobody wants the result.
        let _unwanted = reply.send(result);
    })?;
    answer.await.map_err(|_| io::Error::other("the thread inside the network namespace panicked"))?
}

fn enter_and_run<T, F, W>(namespace: &File, work: W) -> io::Result<T>
where
    W: FnOnce(Handle) -> F,
    F: Future<Output = T>,
{
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let (connection, handle, _messages) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        Ok(result)
    })
}
