//! Who is offline while messages are sent to them.
//!
//! ```text
//! offline-share = share [":" messages] ["@" back]     50%       half of the clients, who get half of the messages
//!                                                     1%:80%@10s  1 % of them get 80 %, and come back after 10 s
//! ```
//! They are there when the others connect, so that the relay knows them, and leave before the first
//! message. Without `back` they come back when the steady phase is over.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Fraction;
use crate::units::parse_duration;

/// Clients that are offline while messages are sent to them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offline {
    /// How many of the clients: the last so many.
    pub share: Fraction,
    /// How much of all messages they get.
    pub messages: Fraction,
    /// When they come back, from the beginning of the steady phase; nobody writes to them from then on.
    /// `None` is at its end.
    pub back: Option<Duration>,
}

impl FromStr for Offline {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (shares, back) = text.split_once('@').map_or((text, None), |(shares, back)| (shares, Some(back)));
        let (share, messages) = shares.split_once(':').unwrap_or((shares, shares));
        Ok(Self { share: share.parse()?, messages: messages.parse()?, back: back.map(parse_duration).transpose()? })
    }
}

impl fmt::Display for Offline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.share)?;
        if self.messages != self.share {
            write!(f, ":{}", self.messages)?;
        }
        self.back.map_or(Ok(()), |back| write!(f, "@{}", humantime::format_duration(back)))
    }
}

#[cfg(test)]
mod tests {
    use super::Offline;

    #[test]
    fn what_is_shown_reads_back_as_itself() {
        for text in ["50%", "1%:80%", "10%@5s", "1%:80%@1m 5s"] {
            assert_eq!(text.parse::<Offline>().map(|read| read.to_string()), Ok(text.to_owned()));
        }
        let offline: Offline = "50%".parse().unwrap();
        assert_eq!((offline.messages, offline.back), (offline.share, None));
        for text in ["", "0%", "1%:", "1%:2%@x", "1%@"] {
            assert!(text.parse::<Offline>().is_err(), "{text}");
        }
    }
}
