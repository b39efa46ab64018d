//! Who is to get a message: the devices of its recipient, and the sender's other devices.
//!
//! ```text
//! place  = device * users + user          of a worker's connections; visitors come behind them all
//! index  = device * 2 + (0: recipient, 1: sender)        within the audience of one message
//! ```
//! The device that sent a message is the only one of both users that is not to get it.

/// The connections of one worker's users, and what that makes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    users: u32,
    devices: u32,
}

impl Audience {
    /// For so many users with so many devices each.
    #[must_use]
    pub fn new(users: u32, devices: u32) -> Self {
        Self { users, devices }
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.users * self.devices
    }

    /// The user of a connection.
    #[must_use]
    pub fn user(&self, place: u32) -> u32 {
        place % self.users.max(1)
    }

    /// Which of its user's devices a connection is; the first, 0, is the one that sends.
    #[must_use]
    pub fn device(&self, place: u32) -> u32 {
        place / self.users.max(1)
    }

    /// One more than the highest index.
    #[must_use]
    pub fn indices(&self) -> u32 {
        2 * self.devices
    }

    /// How many are to get each message.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.indices() - 1
    }

    /// The index of the client at `place` in the audience of a message; `None` if it is not to get it.
    #[must_use]
    pub fn index(&self, place: u32, sender: u32, recipient: u32) -> Option<u32> {
        let (user, device) = (self.user(place), self.device(place));
        if user == recipient {
            Some(2 * device)
        } else if user == sender && device > 0 {
            Some(2 * device + 1)
        } else {
            None
        }
    }

    /// The indices of the sender's other devices.
    pub fn copies(&self) -> impl Iterator<Item = u32> + use<> {
        (1..self.devices).map(|device| 2 * device + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Audience;

    #[test]
    fn everybody_but_the_sending_device_is_in_the_audience_once() {
        let audience = Audience::new(5, 3);
        let (sender, recipient) = (1, 4);
        let mut indices: Vec<_> =
            (0..audience.connections()).filter_map(|place| audience.index(place, sender, recipient)).collect();
        indices.sort_unstable();
        assert_eq!(indices, [0, 2, 3, 4, 5]);
        assert_eq!((indices.len() as u32, audience.indices()), (audience.size(), 6));
        assert_eq!(audience.copies().collect::<Vec<_>>(), [3, 5]);
        assert_eq!((audience.user(9), audience.device(9)), (4, 1));
        assert_eq!(audience.index(1, sender, recipient), None);
    }

    #[test]
    fn with_one_device_there_is_one_to_get_it() {
        let audience = Audience::new(5, 1);
        assert_eq!((audience.size(), audience.copies().count()), (1, 0));
        assert_eq!((audience.index(4, 1, 4), audience.index(1, 1, 4), audience.index(0, 1, 4)), (Some(0), None, None));
    }
}
