//! etcd's own users and roles, which this server does not have: every call answers as etcd's does while
//! authentication is disabled.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response};
use tonic_prost::ProstCodec;

use super::Service;
use super::pb::AuthStatusResponse;

#[derive(Clone)]
pub(super) struct AuthDisabled(pub Service);

impl NamedService for AuthDisabled {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl tonic::codegen::Service<http::Request<Body>> for AuthDisabled {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            if request.uri().path() == "/etcdserverpb.Auth/AuthStatus" {
                let mut grpc = Grpc::new(ProstCodec::default());
                return Ok(grpc.unary(AuthStatus(service), request).await);
            }
            Ok(Status::failed_precondition("etcdserver: authentication is not enabled").into_http())
        })
    }
}

struct AuthStatus(Service);

impl UnaryService<()> for AuthStatus {
    type Response = AuthStatusResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<AuthStatusResponse>, Status>> + Send>>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let header = service.header_now().await?;
            // etcd's first revision of users and roles, of which there are none.
            Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
        })
    }
}
