//! The devices of one user: which are known, which are online, and how far each has come.
//!
//! # Invariants
//! - At most [`DEVICES_PER_KEY`] are known. One more pushes out the one that is offline for longest;
//!   if all are online, it is refused.
//! - A device's cursor never falls. It starts where the furthest of the user's devices ever was, so a
//!   new device gets what none has confirmed.
//! - An online device's `next` is above its cursor, but for one that resumed further back: it gets
//!   again what it asked for.

use protocol::limits::DEVICES_PER_KEY;

use crate::store::DeviceTag;

/// One device, online or not.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: Box<str>,
    pub(crate) tag: DeviceTag,
    /// Everything up to this seq is confirmed.
    pub(crate) cursor: u64,
    /// The next seq for its connection.
    pub(crate) next: u64,
    /// The slot of its connection.
    pub(crate) connection: Option<u32>,
    /// When it was last online.
    pub(crate) active_ms: i64,
}

/// All known devices of a user.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    list: Vec<Device>,
    online: u8,
}

/// How a connection joined its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// The user was offline before.
    pub(crate) is_first: bool,
    /// The device was known before.
    pub(crate) is_known: bool,
    /// The slot of an older connection of the same device.
    pub(crate) replaced: Option<u32>,
}

impl Devices {
    /// Known devices, in no order that means anything.
    pub(crate) fn all(&self) -> &[Device] {
        &self.list
    }

    /// The same, to be moved on.
    pub(crate) fn all_mut(&mut self) -> &mut [Device] {
        &mut self.list
    }

    /// The device behind a connection's slot.
    pub(crate) fn on(&self, connection: u32) -> Option<&Device> {
        self.list.iter().find(|device| device.connection == Some(connection))
    }

    /// The same, to be moved on.
    pub(crate) fn on_mut(&mut self, connection: u32) -> Option<&mut Device> {
        self.list.iter_mut().find(|device| device.connection == Some(connection))
    }

    /// Whether any is online.
    pub(crate) fn is_online(&self) -> bool {
        self.online > 0
    }

    /// Whether a device other than this one is known.
    pub(crate) fn has_other(&self, tag: DeviceTag) -> bool {
        self.list.iter().any(|device| device.tag != tag)
    }

    /// What every known device has confirmed; `None` if none is known.
    pub(crate) fn floor(&self) -> Option<u64> {
        self.list.iter().map(|device| device.cursor).min()
    }

    /// Adds a device that is offline: from the store.
    pub(crate) fn restore(&mut self, device: Device) {
        if self.list.len() < DEVICES_PER_KEY {
            self.list.push(device);
        }
    }

    /// Connects a device. A new one starts behind `confirmed`. `None`: too many are online.
    pub(crate) fn connect(
        &mut self,
        id: &str,
        tag: DeviceTag,
        connection: u32,
        confirmed: u64,
        online_max: usize,
    ) -> Option<Joined> {
        let is_first = self.online == 0;
        if let Some(device) = self.list.iter_mut().find(|device| *device.id == *id) {
            let replaced = device.connection;
            if replaced.is_none() {
                if usize::from(self.online) >= online_max {
                    return None;
                }
                self.online += 1;
            }
            device.connection = Some(connection);
            return Some(Joined { is_first, is_known: true, replaced });
        }
        if usize::from(self.online) >= online_max.min(DEVICES_PER_KEY) {
            return None;
        }
        if self.list.len() == DEVICES_PER_KEY {
            let offline = self.list.iter().enumerate().filter(|(_, device)| device.connection.is_none());
            let (longest, _) = offline.min_by_key(|(_, device)| device.active_ms)?;
            self.list.swap_remove(longest);
        }
        let connection = Some(connection);
        self.list.push(Device { id: id.into(), tag, cursor: confirmed, next: confirmed + 1, connection, active_ms: 0 });
        self.online += 1;
        Some(Joined { is_first, is_known: false, replaced: None })
    }

    /// Takes a connection from its device, if it still is the device's. Says whether it was.
    pub(crate) fn disconnect(&mut self, connection: u32, now_ms: i64) -> bool {
        let Some(device) = self.on_mut(connection) else { return false };
        device.connection = None;
        device.active_ms = now_ms;
        self.online -= 1;
        true
    }

    /// Forgets devices that are offline since before `since_ms`. Says whether there were any.
    pub(crate) fn forget_before(&mut self, since_ms: i64) -> bool {
        let before = self.list.len();
        self.list.retain(|device| device.connection.is_some() || device.active_ms >= since_ms);
        self.list.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(devices: &mut Devices, id: &str, connection: u32, confirmed: u64) -> Option<Joined> {
        let tag = DeviceTag(id.bytes().fold(7, |tag, byte| tag * 31 + u64::from(byte)));
        devices.connect(id, tag, connection, confirmed, DEVICES_PER_KEY)
    }

    #[test]
    fn a_user_is_online_from_its_first_device_to_its_last() {
        let mut devices = Devices::default();
        assert!(connect(&mut devices, "a", 10, 0).is_some_and(|joined| joined.is_first && !joined.is_known));
        assert!(connect(&mut devices, "b", 11, 0).is_some_and(|joined| !joined.is_first));
        let again = connect(&mut devices, "a", 12, 0).expect("it is the same device");
        assert_eq!(again, Joined { is_first: false, is_known: true, replaced: Some(10) });
        assert!(!devices.disconnect(10, 1), "the replaced connection is no device's any more");
        assert!(devices.disconnect(12, 1) && devices.is_online());
        assert!(devices.disconnect(11, 1) && !devices.is_online());
        assert_eq!(devices.all().len(), 2);
    }

    #[test]
    fn the_ninth_device_pushes_out_the_one_offline_for_longest_and_none_that_is_online() {
        let mut devices = Devices::default();
        for at in 0..8 {
            connect(&mut devices, &at.to_string(), at, 5).expect("there is room");
        }
        assert_eq!(connect(&mut devices, "ninth", 8, 5), None);
        devices.disconnect(3, 200);
        devices.disconnect(6, 100);
        assert!(connect(&mut devices, "ninth", 8, 5).is_some());
        let known: Vec<&str> = devices.all().iter().map(|device| &*device.id).collect();
        assert!(known.contains(&"3") && !known.contains(&"6") && known.contains(&"ninth"), "{known:?}");
    }

    #[test]
    fn a_new_device_starts_where_the_furthest_ever_was() {
        let mut devices = Devices::default();
        connect(&mut devices, "a", 0, 7).expect("there is room");
        let device = devices.on(0).expect("it is online");
        assert_eq!((device.cursor, device.next), (7, 8));
        assert_eq!(devices.floor(), Some(7));
        devices.disconnect(0, 50);
        assert!(!devices.forget_before(50) && devices.forget_before(51));
        assert_eq!(devices.floor(), None);
    }
}
