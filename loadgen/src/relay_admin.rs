//! The admin port of a relay: what it says of itself, and how busy its shards are.
//!
//! A request costs the relay one answer of each shard between two passes; a run asks before it
//! begins, and at both ends of the steady phase.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer that is read: 256 shards of 3 KiB of counts.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Where an admin port is.
#[derive(Clone, Copy, Debug)]
pub struct Admin(pub SocketAddr);

/// What a relay said of itself before the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayAbout {
    /// Where it was asked.
    pub admin: String,
    /// `/version`: version, commit, engine, shards, how it was built.
    pub version: Value,
    /// `/config`: the configuration in effect, by option; null from a relay that does not tell.
    pub config: Value,
}

/// How much of a core a thread of the relay used in the steady phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardLoad {
    /// `shard-0` and so on.
    pub name: String,
    /// From 0 to 1. With `--busy-poll` looking for work counts too.
    pub busy: f64,
}

/// CPU time by thread, at one moment.
pub type CpuByThread = BTreeMap<String, u64>;

impl Admin {
    /// What the relay says of itself.
    ///
    /// # Errors
    /// The operating system's, or what is wrong with the answer.
    pub fn about(&self) -> io::Result<RelayAbout> {
        let version = self.get("/version")?;
        Ok(RelayAbout { admin: self.0.to_string(), version, config: self.get("/config").unwrap_or_default() })
    }

    /// The CPU time of each shard; empty if it does not answer.
    #[must_use]
    pub fn cpu(&self) -> CpuByThread {
        let stats = self.get("/stats").unwrap_or_default();
        let shard = |shard: &Value| {
            let cpu_ns = shard["counts"]["thread"]["cpu_ns"].as_u64()?;
            Some((format!("shard-{}", shard["shard"].as_u64()?), cpu_ns))
        };
        stats["shards"].as_array().into_iter().flatten().filter_map(shard).collect()
    }

    fn get(&self, path: &str) -> io::Result<Value> {
        let mut stream = TcpStream::connect_timeout(&self.0, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.0);
        stream.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut response)?;
        let response = String::from_utf8_lossy(&response);
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        if !head.starts_with("HTTP/1.1 200") {
            let status = head.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("{path} is answered by `{status}`")));
        }
        serde_json::from_str(body).map_err(|error| io::Error::other(format!("{path} is no JSON: {error}")))
    }
}

/// How busy threads were between two readings, `elapsed_ns` apart.
#[must_use]
pub fn loads(begin: &CpuByThread, end: &CpuByThread, elapsed_ns: u64) -> Vec<ShardLoad> {
    let busy = |(name, end_ns): (&String, &u64)| {
        let used_ns = end_ns.checked_sub(*begin.get(name)?)?;
        Some(ShardLoad { name: name.clone(), busy: used_ns as f64 / elapsed_ns.max(1) as f64 })
    };
    end.iter().filter_map(busy).collect()
}

#[cfg(test)]
mod tests {
    use super::{Admin, CpuByThread, loads};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// An admin port that gives these answers, one after the other.
    fn admin(answers: Vec<&'static str>) -> (Admin, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let answer = |answer: &str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend_from_slice(&byte);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request).lines().next().unwrap().to_owned()
            };
            answers.into_iter().map(answer).collect()
        };
        (Admin(address), thread::spawn(serve))
    }

    #[test]
    fn a_relay_is_asked_for_version_and_configuration() {
        let ok = "HTTP/1.1 200 OK\r\nX: y\r\n\r\n{\"engine\":\"ring\"}";
        let (admin, server) = admin(vec![ok, "HTTP/1.1 404 Not Found\r\n\r\n"]);
        let about = admin.about().unwrap();
        assert_eq!((about.version["engine"].as_str(), about.config.is_null()), (Some("ring"), true));
        assert_eq!(server.join().unwrap(), ["GET /version HTTP/1.1", "GET /config HTTP/1.1"]);
    }

    #[test]
    fn what_is_no_admin_port_is_named() {
        let (admin, server) = admin(vec!["HTTP/1.1 426 Upgrade Required\r\n\r\n"]);
        assert!(admin.about().unwrap_err().to_string().contains("426"));
        server.join().unwrap();
        // Nobody listens there any more.
        assert!(admin.about().is_err() && admin.cpu().is_empty());
    }

    #[test]
    fn shards_tell_their_cpu_time() {
        let stats = "HTTP/1.1 200 OK\r\n\r\n{\"shards\":[{\"shard\":3,\"counts\":{\"thread\":{\"cpu_ns\":50}}}]}";
        let (admin, server) = admin(vec![stats]);
        assert_eq!(admin.cpu(), CpuByThread::from([("shard-3".to_owned(), 50)]));
        server.join().unwrap();
    }

    #[test]
    fn a_load_is_the_share_of_the_time() {
        let at = |values: &[(&str, u64)]| values.iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect();
        let (begin, end): (CpuByThread, CpuByThread) = (at(&[("a", 10), ("b", 5)]), at(&[("a", 60), ("c", 9)]));
        let loads = loads(&begin, &end, 100);
        assert_eq!(loads.len(), 1);
        assert_eq!((loads[0].name.as_str(), loads[0].busy), ("a", 0.5));
    }
}
