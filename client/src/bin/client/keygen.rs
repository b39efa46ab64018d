//! `client keygen`: makes a key.

use std::path::PathBuf;

use clap::Args;
use client::key_file;
use protocol::PublicKey;

use crate::Failure;

/// Make a key: write its secret half to a new file of mode 0600, print its public half
#[derive(Args)]
pub(crate) struct Keygen {
    /// File to write; never overwritten
    #[arg(long, value_name = "FILE", default_value = "client.key")]
    out: PathBuf,
}

impl Keygen {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let key = key_file::generate();
        key_file::create(&self.out, &key).map_err(anyhow::Error::from)?;
        println!("{}", PublicKey::from(&key.verifying_key()));
        Ok(())
    }
}
