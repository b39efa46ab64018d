//! Every way a connection or a listener ends, and what is told of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use relay_engine::{Disconnect, EngineKind, ReadMode, connect_start};

use crate::rig::{Rig, Told, connect, for_every_engine, pattern, reset};

for_every_engine! { among_others:
    end_of_file_and_reset_are_told_apart,
    a_half_closed_peer_can_be_written_to,
    shutdown_write_flushes_first,
    shutdown_write_without_a_write_closes_at_once,
    a_closed_connection_is_never_named_again,
    a_slot_used_again_has_another_generation,
    a_closed_id_is_refused,
    a_broken_connection_takes_writes_and_stays_silent,
    a_write_to_a_reset_peer_fails_once,
    a_peer_that_left_before_it_was_accepted,
    stop_listening_refuses_new_connections,
    a_refused_connection_is_told,
    a_connecting_socket_reads_and_writes_once_connected,
    dropping_the_engine_closes_everything,
}

fn end_of_file_and_reset_are_told_apart(kind: EngineKind) {
    for mode in [ReadMode::Once, ReadMode::Continuous] {
        let mut rig = Rig::new(kind);
        let address = rig.listen();
        let (client, closed) = rig.pair(address);
        rig.engine.read(closed, mode);
        drop(client);
        assert_eq!(rig.disconnected(closed), Disconnect::Eof);

        let (client, broken) = rig.pair(address);
        rig.engine.read(broken, mode);
        rig.settle(address);
        reset(client);
        assert_eq!(rig.disconnected(broken), Disconnect::Error(libc::ECONNRESET));

        rig.settle(address);
        rig.assert_silent(closed);
        rig.assert_silent(broken);
        rig.engine.close(closed);
        rig.engine.close(broken);
    }
}

fn a_half_closed_peer_can_be_written_to(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Continuous);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.received(id), b"question");
    assert_eq!(rig.disconnected(id), Disconnect::Eof);
    rig.engine.write(id, b"answer".to_vec());
    assert_eq!(rig.written(id), b"answer");
    rig.engine.close(id);
    rig.settle(address);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

fn shutdown_write_flushes_first(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    let sent = pattern(4 << 20);
    let expected = sent.clone();
    rig.engine.write(id, sent);
    rig.engine.shutdown_write(id);
    rig.engine.read(id, ReadMode::Continuous);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        assert!(bytes == expected, "{} bytes before the end", bytes.len());
        // The other direction still works.
        client.write_all(b"got it").unwrap();
    });
    rig.written(id);
    let mut answer = Vec::new();
    while answer.len() < 6 {
        answer.extend(rig.received(id));
    }
    assert_eq!(answer, b"got it");
    assert_eq!(rig.disconnected(id), Disconnect::Eof);
    reader.join().unwrap();
}

fn shutdown_write_without_a_write_closes_at_once(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    rig.engine.shutdown_write(id);
    rig.settle(address);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    rig.assert_silent(id);
}

fn a_closed_connection_is_never_named_again(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    for mode in [ReadMode::Once, ReadMode::Continuous] {
        for submitted in [false, true] {
            let (mut client, id) = rig.pair(address);
            rig.engine.read(id, mode);
            // More than the socket buffers hold: the write stays in flight.
            rig.engine.write(id, pattern(32 << 20));
            client.write_all(b"unheard").unwrap();
            if submitted {
                rig.engine.submit().unwrap();
            }
            rig.engine.close(id);
            rig.told.clear();
            rig.settle(address);
            client.write_all(b"unheard").ok();
            rig.settle(address);
            rig.assert_silent(id);
            // The peer sees the end, whatever was on its way.
            let mut rest = Vec::new();
            match client.read_to_end(&mut rest) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            assert!(rest.len() < 32 << 20);
        }
    }
}

fn a_slot_used_again_has_another_generation(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let mut ids = Vec::new();
    for _ in 0..30 {
        let (client, id) = rig.pair(address);
        rig.engine.read(id, ReadMode::Continuous);
        rig.engine.close(id);
        drop(client);
        assert!(!ids.contains(&id), "{id:?} named twice");
        ids.push(id);
    }
    assert!(ids.iter().any(|id| id.generation > 0), "no slot used again");
    assert!(ids.iter().all(|id| id.index < 10), "indexes are not dense");
}

fn a_closed_id_is_refused(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (_client, id) = rig.pair(address);
    rig.engine.close(id);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        rig.engine.read(id, ReadMode::Once);
    }));
    assert!(refused.is_err());
}

fn a_broken_connection_takes_writes_and_stays_silent(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (client, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Continuous);
    rig.settle(address);
    reset(client);
    assert_eq!(rig.disconnected(id), Disconnect::Error(libc::ECONNRESET));
    rig.engine.write(id, b"to nobody".to_vec());
    rig.engine.read(id, ReadMode::Once);
    rig.engine.shutdown_write(id);
    rig.settle(address);
    rig.assert_silent(id);
    rig.engine.close(id);
}

fn a_write_to_a_reset_peer_fails_once(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (client, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Continuous);
    rig.engine.write(id, pattern(32 << 20));
    rig.settle(address);
    reset(client);
    assert_eq!(rig.disconnected(id), Disconnect::Error(libc::ECONNRESET));
    rig.settle(address);
    rig.assert_silent(id);
    rig.engine.close(id);
}

fn a_peer_that_left_before_it_was_accepted(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    reset(connect(address));
    // It shows as an aborted accept or as a connection that breaks; the next one is served.
    let (mut client, id) = rig.pair(address);
    client.write_all(b"here").unwrap();
    assert_eq!(rig.collect(id, 4, ReadMode::Once), b"here");
    for told in std::mem::take(&mut rig.told) {
        match told {
            Told::AcceptFailed(error) => assert_eq!(error, libc::ECONNABORTED),
            Told::Accepted(gone, _) => {
                rig.engine.read(gone, ReadMode::Once);
                assert_eq!(rig.disconnected(gone), Disconnect::Error(libc::ECONNRESET));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn stop_listening_refuses_new_connections(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let first = rig.listen();
    let second = rig.listen();
    let (mut client, id) = rig.pair(first);
    rig.engine.stop_listening();
    rig.until("both ports to be closed", |_| {
        [first, second]
            .iter()
            .all(|address| TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
            .then_some(())
    });
    rig.told.clear();
    // What was accepted before lives on, and the engine can listen again.
    client.write_all(b"still here").unwrap();
    assert_eq!(rig.collect(id, 10, ReadMode::Once), b"still here");
    let third = rig.listen();
    rig.settle(third);
}

fn a_refused_connection_is_told(kind: EngineKind) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for (reads, writes) in [(true, false), (false, true), (true, true)] {
        let mut rig = Rig::new(kind);
        let Ok(socket) = connect_start(address, None) else {
            // Refused on the spot, which loopback may do.
            continue;
        };
        let id = rig.engine.adopt(socket).unwrap();
        if reads {
            rig.engine.read(id, ReadMode::Continuous);
        }
        if writes {
            rig.engine.write(id, b"hello".to_vec());
        }
        assert_eq!(rig.disconnected(id), Disconnect::Error(libc::ECONNREFUSED), "reads {reads}, writes {writes}");
        rig.engine.close(id);
    }
}

fn a_connecting_socket_reads_and_writes_once_connected(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let near = rig.engine.adopt(connect_start(address, None).unwrap()).unwrap();
    rig.engine.read(near, ReadMode::Continuous);
    rig.engine.write(near, b"ping".to_vec());
    let far = rig.accepted();
    assert_eq!(rig.collect(far, 4, ReadMode::Continuous), b"ping");
    rig.engine.write(far, b"pong".to_vec());
    let mut answer = Vec::new();
    while answer.len() < 4 {
        answer.extend(rig.received(near));
    }
    assert_eq!(answer, b"pong");
    assert_eq!(rig.written(near), b"ping");
    assert_eq!(rig.written(far), b"pong");
}

fn dropping_the_engine_closes_everything(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut reading, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Continuous);
    let (mut writing, id) = rig.pair(address);
    rig.engine.write(id, pattern(32 << 20));
    let (mut idle, _) = rig.pair(address);
    rig.poll(std::time::Duration::ZERO);
    drop(rig);
    for client in [&mut reading, &mut writing, &mut idle] {
        let mut rest = Vec::new();
        match client.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    let error = TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
