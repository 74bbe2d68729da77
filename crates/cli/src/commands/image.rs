//! `hob image`: the server's image store.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use images::{Limits, PackRequest, Reference, write_layout};
use serde_json::{Value, json};

use super::Common;
use crate::client::{query, upload};
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::model::{self, Image};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

const IMAGES: &str = "/api/images/";
const COPY_BYTES: usize = 64 * 1024;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hob image pack ./app --name app:1 --port 8080                     a static binary
  hob image pack ./public --name site:1 --entrypoint /bin/server    a directory
  hob image import app.tar                                          `docker save` or OCI layout
  docker save app:1 | hob image import -
  hob image ls
  hob image rm app:1")]
pub struct ImageCommand {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Send an OCI image layout (directory or tar) or a `docker save` archive to the server
    Import {
        /// File or directory; - is standard input
        #[arg(value_name = "FILE|DIR")]
        source: PathBuf,
        /// Name that the image gets [default: the names in the archive]
        #[arg(long, value_name = "NAME:TAG")]
        name: Option<Reference>,
    },
    /// Make an image of a directory or of one static binary
    Pack(Pack),
    /// List images
    Ls,
    /// Forget images
    Rm {
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
}

#[derive(Args, Debug)]
struct Pack {
    /// The directory becomes the image's root; a file becomes /NAME in it
    #[arg(value_name = "DIR|BINARY")]
    source: PathBuf,
    /// Name of the image
    #[arg(long, value_name = "NAME:TAG")]
    name: Reference,
    /// Program to start, then its fixed arguments: repeat for each word [default: the binary]
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// Arguments: repeat for each word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// Port that the program listens on; may be repeated
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Environment variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::config::parse_pair)]
    env: Vec<(String, String)>,
    /// User that the program runs as, NAME or UID[:GID] [default: root]
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// Directory that the program starts in [default: /]
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    workdir: String,
    /// Signal that asks it to end [default: SIGTERM]
    #[arg(long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    stop_signal: String,
    /// Write an OCI layout (tar) to this file instead of sending it to the server
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl ImageCommand {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        if let Action::Pack(Pack { output: Some(file), .. }) = &self.action {
            let file = file.clone();
            let Action::Pack(pack) = self.action else { return Ok(()) };
            return pack.write_to(environment, screen, file).await;
        }
        let mut session = Session::open(environment, &self.common, screen)?;
        match self.action {
            Action::Import { source, name } => session.import(source, name).await,
            Action::Pack(pack) => session.pack(pack).await,
            Action::Ls => session.list_images().await,
            Action::Rm { references } => {
                for reference in &references {
                    let path = query(IMAGES, &[("ref", reference)]);
                    let cannot = |trouble: Trouble| trouble.within(format!("cannot remove {reference}"));
                    session.client.delete(&path).await.map_err(cannot)?;
                }
                session.screen.either(&json!({ "removed": references }), || {
                    format!("removed {}", references.join(", "))
                })
            }
        }
    }
}

impl Pack {
    fn request(&self) -> PackRequest {
        PackRequest {
            entrypoint: self.entrypoint.clone(),
            cmd: self.cmd.clone(),
            ports: self.port.clone(),
            env: self.env.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            user: self.user.clone(),
            working_dir: self.workdir.clone(),
            stop_signal: self.stop_signal.clone(),
            ..PackRequest::new(&self.source, self.name.clone())
        }
    }

    async fn write_to(self, environment: &Environment, screen: &mut Screen, path: PathBuf) -> Result<()> {
        let (request, scratch) = (self.request(), environment.temp_dir.clone());
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || {
            let file = File::create(&path).map_err(|error| cannot_write(&path, &error))?;
            let digest = write_layout(&request, &Limits::default(), &scratch, io::BufWriter::new(&file));
            let digest = digest.map_err(|error| cannot_pack(&request.source, error))?;
            file.sync_all().map_err(|error| cannot_write(&path, &error))?;
            Ok(digest.to_string())
        });
        let digest = written.await.map_err(|error| Trouble::failed(error.to_string()))??;
        let document = json!({ "reference": self.name.to_string(), "digest": digest, "file": shown });
        screen.either(&document, || {
            format!("{} is in {shown} ({})", self.name, text::short_digest(&digest))
        })
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Trouble {
    Trouble::failed(format!("cannot write {}: {error}", path.display()))
}

fn cannot_pack(source: &Path, error: images::ImageError) -> Trouble {
    Trouble::failed(error.to_string()).within(format!("cannot pack {}", source.display()))
}

impl Session<'_> {
    async fn import(&mut self, source: PathBuf, name: Option<Reference>) -> Result<()> {
        let archive = Archive::open(&source)?;
        let name = name.map(|name| name.to_string());
        let pairs: Vec<(&str, &str)> = name.iter().map(|name| ("name", name.as_str())).collect();
        let attempt = format!("cannot import {}", archive.name());
        let images = self
            .send_image(&pairs, archive.bytes(), move |out| archive.write(out))
            .await;
        self.told_images(&images.map_err(|trouble| trouble.within(attempt))?)
    }

    async fn pack(&mut self, pack: Pack) -> Result<()> {
        let (request, scratch) = (pack.request(), self.environment.temp_dir.clone());
        let name = pack.name.to_string();
        let write = move |out: &mut dyn Write| {
            let written = write_layout(&request, &Limits::default(), &scratch, out);
            written.map(|_| ()).map_err(|error| cannot_pack(&request.source, error))
        };
        let images = self.send_image(&[("name", &name)], None, write).await;
        self.told_images(&images.map_err(|trouble| trouble.within(format!("cannot send {name}")))?)
    }

    /// `bytes` is what will be written, where that is known.
    async fn send_image(
        &mut self,
        pairs: &[(&str, &str)],
        bytes: Option<u64>,
        write: impl FnOnce(&mut dyn Write) -> Result<()> + Send + 'static,
    ) -> Result<Value> {
        let bar = match bytes {
            Some(_) => self
                .screen
                .live("{spinner} sending {bytes} of {total_bytes} ({bytes_per_sec})"),
            None => self.screen.live("{spinner} sending {bytes} ({bytes_per_sec})"),
        };
        bar.set_length(bytes.unwrap_or(0));
        let (body, producer) = upload::body(bar.clone(), write);
        let answer = self.client.upload(&query(IMAGES, pairs), body).await;
        bar.finish_and_clear();
        producer.judge(answer).await
    }

    fn told_images(&mut self, document: &Value) -> Result<()> {
        let images = read_images(document)?;
        let line = |i: &Image| {
            format!(
                "{} {} ({})",
                i.reference,
                text::short_digest(&i.digest),
                text::size(i.size_bytes)
            )
        };
        self.screen
            .either(document, || images.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    async fn list_images(&mut self) -> Result<()> {
        let document = self.client.get(IMAGES).await?;
        let images = read_images(&document)?;
        self.screen.either(&document, || listing(images))
    }
}

fn read_images(document: &Value) -> Result<Vec<Image>> {
    document["results"]
        .as_array()
        .into_iter()
        .flatten()
        .map(model::read)
        .collect()
}

fn listing(images: Vec<Image>) -> String {
    if images.is_empty() {
        return "there are no images; `hob image pack` and `hob image import` bring some".to_owned();
    }
    let row = |image: Image| {
        let used = if image.in_use { "yes" } else { "" };
        let digest = text::short_digest(&image.digest).to_owned();
        [
            image.reference,
            digest,
            text::size(image.size_bytes),
            created(&image.created_at),
            used.to_owned(),
        ]
    };
    text::table(
        ["REFERENCE", "DIGEST", ">SIZE", "CREATED (UTC)", "USED"],
        images.into_iter().map(row),
    )
}

/// Reproducible images, those of `hob image pack` among them, have the beginning of time as their date.
fn created(at: &str) -> String {
    if at.starts_with("1970-01-01T00:00:00") {
        "-".to_owned()
    } else {
        text::moment(at)
    }
}

/// What is imported.
enum Archive {
    File { file: File, bytes: u64, path: PathBuf },
    Directory(PathBuf),
    Input,
}

impl Archive {
    fn open(source: &Path) -> Result<Archive> {
        if source.as_os_str() == "-" {
            return Ok(Archive::Input);
        }
        let cannot = |error: io::Error| Trouble::failed(format!("cannot read {}: {error}", source.display()));
        let metadata = std::fs::metadata(source).map_err(cannot)?;
        if !metadata.is_dir() {
            let file = File::open(source).map_err(cannot)?;
            return Ok(Archive::File {
                file,
                bytes: metadata.len(),
                path: source.to_owned(),
            });
        }
        if !["index.json", "manifest.json"]
            .iter()
            .any(|name| source.join(name).exists())
        {
            return Err(Trouble::failed(format!(
                "{} is no OCI image layout: it has no index.json",
                source.display()
            ))
            .advise("`hob image pack DIR` makes an image of the files in a directory"));
        }
        Ok(Archive::Directory(source.to_owned()))
    }

    /// For messages.
    fn name(&self) -> String {
        match self {
            Archive::File { path, .. } | Archive::Directory(path) => path.display().to_string(),
            Archive::Input => "standard input".to_owned(),
        }
    }

    fn bytes(&self) -> Option<u64> {
        match self {
            Archive::File { bytes, .. } => Some(*bytes),
            _ => None,
        }
    }

    fn write(self, out: &mut dyn Write) -> Result<()> {
        let name = self.name();
        let written = match self {
            Archive::File { file, .. } => copy(file, out),
            Archive::Input => copy(io::stdin().lock(), out),
            Archive::Directory(path) => {
                let mut tar = tar::Builder::new(out);
                tar.follow_symlinks(false);
                tar.append_dir_all("", &path).and_then(|()| tar.finish())
            }
        };
        written.map_err(|error| Trouble::failed(format!("cannot send {name}: {error}")))
    }
}

fn copy(mut from: impl Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write_all(&buffer[..n])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests_support::check;

    #[test]
    fn images_are_listed() {
        let image = |reference: &str, created_at: &str, in_use: bool| Image {
            reference: reference.to_owned(),
            digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef".to_owned(),
            size_bytes: 3_456_789,
            created_at: created_at.to_owned(),
            in_use,
        };
        check(
            "images.txt",
            &listing(vec![
                image("web:1", "1970-01-01T00:00:00Z", true),
                image("registry.example.com/web:2", "2026-03-04T05:06:07Z", false),
            ]),
        );
    }

    #[test]
    fn a_directory_that_is_no_layout_is_refused_with_the_command_that_was_meant() {
        let directory = tempfile::tempdir().unwrap();
        let trouble = Archive::open(directory.path()).err().unwrap();
        assert!(trouble.advice.contains("hob image pack"));
        let missing = Archive::open(Path::new("/nonexistent/file.tar")).err().unwrap();
        assert!(missing.message.contains("/nonexistent/file.tar"));
    }
}
