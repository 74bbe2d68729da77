//! A registry in this process that can be told to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use images::Digest;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::TestImage;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub authorization: Option<String>,
    /// First byte asked for.
    pub from: Option<usize>,
    /// How many requests for this path came before.
    pub nth: usize,
}

/// An answer, possibly a bad one.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// What `Content-Length` says, if not the truth.
    pub length: Option<usize>,
    /// Stop in the middle: close or hang.
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Then {
    Close,
    Hang,
    /// A byte every 10 ms.
    Drip,
}

impl Answer {
    pub fn new(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            then: Then::Close,
        }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Answer {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Answer {
        self.body = body.into();
        self
    }

    /// Promises all of the body and sends only so much of it.
    pub fn cut(mut self, at: usize, then: Then) -> Answer {
        self.length = Some(self.body.len());
        self.body.truncate(at);
        self.then = then;
        self
    }
}

type Script = Box<dyn Fn(&Request, Answer) -> Answer + Send + Sync>;

pub struct Registry {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    documents: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    script: Script,
    requests: Mutex<Vec<Request>>,
    busy: AtomicUsize,
    most_busy: AtomicUsize,
}

impl Registry {
    /// Serves `image` as `app:1`. `script` sees each request with the right answer and returns what is sent.
    pub async fn serve(
        image: &TestImage,
        script: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
    ) -> Registry {
        let mut documents = BTreeMap::new();
        let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
        documents.insert("1".to_owned(), (kind, image.blobs[&image.manifest].clone()));
        Registry::serve_documents(image, documents, script).await
    }

    pub async fn serve_documents(
        image: &TestImage,
        documents: BTreeMap<String, (String, Vec<u8>)>,
        script: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
    ) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            documents,
            blobs: image.blobs.clone(),
            script: Box::new(script),
            requests: Mutex::default(),
            busy: AtomicUsize::new(0),
            most_busy: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    let _ = shared.answer(stream).await;
                });
            }
        });
        Registry {
            address,
            shared,
            accepting,
        }
    }

    pub fn reference(&self, rest: &str) -> images::Reference {
        super::reference(&format!("{}/{rest}", self.address))
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("requests").clone()
    }

    pub fn requests_of(&self, what: &str) -> Vec<Request> {
        self.requests()
            .into_iter()
            .filter(|request| request.path.contains(what))
            .collect()
    }

    pub fn most_busy(&self) -> usize {
        self.shared.most_busy.load(Ordering::SeqCst)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let Some(request) = self.read(&mut stream).await? else {
            return Ok(());
        };
        let is_blob = request.path.contains("/blobs/");
        if is_blob {
            let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_busy.fetch_max(busy, Ordering::SeqCst);
            // Gives the others time to come, so that the most that are here at once is seen.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = (self.script)(&request, self.right_answer(&request));
        self.requests.lock().expect("requests").push(request);
        let sent = send(&mut stream, &answer).await;
        if is_blob {
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
        sent
    }

    async fn read(&self, stream: &mut TcpStream) -> std::io::Result<Option<Request>> {
        let mut lines = BufReader::new(stream).lines();
        let Some(first) = lines.next_line().await? else {
            return Ok(None);
        };
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let nth = self
            .requests
            .lock()
            .expect("requests")
            .iter()
            .filter(|earlier| earlier.path == path)
            .count();
        let mut request = Request {
            path,
            authorization: None,
            from: None,
            nth,
        };
        while let Some(line) = lines.next_line().await?.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "authorization" => request.authorization = Some(value.to_owned()),
                "range" => {
                    let from = value.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                    request.from = from.and_then(|from| from.parse().ok());
                }
                _ => {}
            }
        }
        Ok(Some(request))
    }

    fn right_answer(&self, request: &Request) -> Answer {
        if let Some(blob) = request
            .path
            .rsplit_once("/blobs/")
            .and_then(|(_, digest)| digest.parse::<Digest>().ok())
        {
            let Some(content) = self.blobs.get(&blob) else {
                return Answer::new(404);
            };
            return match request.from {
                Some(from) if from < content.len() => Answer::new(206)
                    .header(
                        "Content-Range",
                        format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
                    )
                    .body(&content[from..]),
                Some(_) => Answer::new(416),
                None => Answer::new(200).body(content.clone()),
            };
        }
        if let Some((_, selector)) = request.path.rsplit_once("/manifests/") {
            let document = self.documents.get(selector).cloned().or_else(|| {
                let digest = selector.parse::<Digest>().ok()?;
                let body = self.blobs.get(&digest)?.clone();
                Some((String::new(), body))
            });
            return match document {
                Some((kind, body)) => Answer::new(200)
                    .header("Docker-Content-Digest", Digest::of(&body))
                    .header("Content-Type", kind)
                    .body(body),
                None => Answer::new(404),
            };
        }
        Answer::new(404)
    }
}

async fn send(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {length}\r\nConnection: close\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer.body).await?;
    stream.flush().await?;
    match answer.then {
        Then::Close => {}
        Then::Hang => {
            // Until the client has had enough and closes.
            let mut rest = BufReader::new(stream).lines();
            while rest.next_line().await?.is_some() {}
        }
        Then::Drip => loop {
            stream.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        },
    }
    Ok(())
}
