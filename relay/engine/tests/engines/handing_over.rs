//! A connection moves from one engine to another, nothing lost.

use std::io::{Read, Write};

use relay_engine::{EngineKind, ReadMode};

use crate::rig::{Rig, for_every_engine, socket_pair};

for_every_engine! { among_others:
    bytes_waiting_in_the_socket_arrive_at_the_new_engine,
    a_reading_connection_cannot_be_released,
    a_writing_connection_cannot_be_released,
    a_socket_made_elsewhere_is_adopted_in_any_mode,
}

fn bytes_waiting_in_the_socket_arrive_at_the_new_engine(kind: EngineKind) {
    let mut first = Rig::new(kind);
    let mut second = Rig::new(kind);
    let address = first.listen();
    let (mut client, id) = first.pair(address);
    first.engine.read(id, ReadMode::Once);
    client.write_all(b"who I am").unwrap();
    assert_eq!(first.received(id), b"who I am");
    first.engine.write(id, b"welcome".to_vec());
    first.written(id);
    client.write_all(b"what I want").unwrap();
    first.settle(address);

    let socket = first.engine.release(id);
    first.assert_silent(id);
    let id = second.engine.adopt(socket).unwrap();
    client.write_all(b", at once").unwrap();
    let bytes = second.collect(id, 20, ReadMode::Continuous);
    assert_eq!(bytes, b"what I want, at once");
    second.engine.write(id, b" home".to_vec());
    second.written(id);
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"welcome home");

    // The old slot is free, under another generation.
    let (_client, again) = first.pair(address);
    assert_ne!(again.generation, 0);
}

fn assert_refuses_release(mut rig: Rig, id: relay_engine::ConnectionId) {
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(rig.engine.release(id));
    }));
    assert!(refused.is_err());
}

fn a_reading_connection_cannot_be_released(kind: EngineKind) {
    for mode in [ReadMode::Once, ReadMode::Continuous] {
        let mut rig = Rig::new(kind);
        let address = rig.listen();
        let (_client, id) = rig.pair(address);
        rig.engine.read(id, mode);
        assert_refuses_release(rig, id);
    }
}

fn a_writing_connection_cannot_be_released(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (_client, id) = rig.pair(address);
    rig.engine.write(id, b"on its way".to_vec());
    assert_refuses_release(rig, id);
}

fn a_socket_made_elsewhere_is_adopted_in_any_mode(kind: EngineKind) {
    for nonblocking in [false, true] {
        let mut rig = Rig::new(kind);
        let (mut client, socket) = socket_pair();
        let socket = std::net::TcpStream::from(socket);
        socket.set_nonblocking(nonblocking).unwrap();
        let id = rig.engine.adopt(socket.into()).unwrap();
        rig.engine.read(id, ReadMode::Continuous);
        rig.poll(std::time::Duration::ZERO);
        client.write_all(b"late").unwrap();
        assert_eq!(rig.received(id), b"late", "nonblocking {nonblocking}");
    }
}
