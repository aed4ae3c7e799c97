//! Lists that come in pages, put together again.

use aether_proto::v1;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::client::Client;
use super::exit::Failure;

/// Most pages of a list: with the nodes' own page size that is half a million
/// rows. A node that gives ever more is at fault.
const PAGES_MAX: usize = 1_000;

/// A request for a list.
pub trait Asks: Clone {
    /// Asks for the page after the one that gave this token.
    fn after(&mut self, token: String);
}

/// A page of a list.
pub trait Lists {
    /// Takes out the token of the next page, which is empty after the last.
    fn take_token(&mut self) -> String;
    /// Adds the rows of the page after this one.
    fn add(&mut self, page: Self);
}

/// The whole is as old as its oldest page, and stale if any page is.
fn older(one: Option<v1::AsOf>, other: Option<v1::AsOf>) -> Option<v1::AsOf> {
    let (one, other) = (one?, other?);
    Some(v1::AsOf { index: one.index.min(other.index), stale: one.stale || other.stale, ..one })
}

macro_rules! pages {
    ($($request:ident => $page:ident.$rows:ident),*) => {$(
        impl Asks for v1::$request {
            fn after(&mut self, token: String) {
                self.page_token = token;
            }
        }
        impl Lists for v1::$page {
            fn take_token(&mut self) -> String {
                std::mem::take(&mut self.next_page_token)
            }
            fn add(&mut self, page: Self) {
                self.$rows.extend(page.$rows);
                self.as_of = older(self.as_of.take(), page.as_of);
            }
        }
    )*};
}

pages!(
    ListUpdatesRequest => ListUpdatesResponse.updates,
    ListSlicesRequest => ListSlicesResponse.slices,
    ListArtifactsRequest => ListArtifactsResponse.artifacts,
    NodesRequest => NodesResponse.nodes
);

impl Client {
    /// Asks for a list, to its end.
    ///
    /// # Errors
    /// A page could not be had, or there is no end to it.
    pub async fn read_all<M: Asks, T: Lists>(
        &self,
        mut message: M,
        call: impl AsyncFn(Channel, Request<M>) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut whole = self.read(message.clone(), &call).await?;
        let mut token = whole.take_token();
        for _ in 1..PAGES_MAX {
            if token.is_empty() {
                return Ok(whole);
            }
            message.after(token);
            let mut page = self.read(message.clone(), &call).await?;
            token = page.take_token();
            whole.add(page);
        }
        Err(Failure::failed(format!("the list has no end after {PAGES_MAX} pages")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, client};
    use super::*;

    /// Page `n` of three.
    fn page(n: usize) -> v1::NodesResponse {
        let as_of = v1::AsOf { index: 9 - n as u64, stale: n == 1, node: "n0".into() };
        v1::NodesResponse {
            nodes: vec![v1::Node { name: format!("n{n}"), ..Default::default() }],
            as_of: Some(as_of),
            next_page_token: if n < 2 { (n + 1).to_string() } else { String::new() },
        }
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end_and_is_as_old_as_its_oldest_page() {
        let client = client(&[Fake::default().serve().await]);
        let whole = client.read_all(v1::NodesRequest::default(), async |_, request| {
            let asked: v1::NodesRequest = request.into_inner();
            Ok(Response::new(page(asked.page_token.parse().unwrap_or(0))))
        });
        let whole = whole.await.unwrap();
        let names: Vec<&str> = whole.nodes.iter().map(|node| &*node.name).collect();
        assert_eq!(names, ["n0", "n1", "n2"]);
        let as_of = whole.as_of.unwrap();
        assert_eq!((as_of.index, as_of.stale), (7, true));
        assert!(whole.next_page_token.is_empty());
    }
}
