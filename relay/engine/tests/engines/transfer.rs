//! Bytes come in and go out: whole, in order, as far as asked.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use relay_engine::{Disconnect, EngineConfig, EngineKind, ReadMode};

use crate::rig::{Rig, Told, connect, for_every_engine, pattern, small};

for_every_engine! { among_others:
    echoes,
    reads_nothing_unasked,
    once_gives_one_event,
    once_while_continuous_gives_one_event_more,
    continuous_while_once_goes_on,
    a_big_write_to_a_slow_reader_is_whole,
    a_big_read_in_both_modes_is_whole,
    writes_of_many_connections_go_out_together,
    two_tiny_buffers_lose_nothing,
    more_operations_than_the_queues_hold,
    a_thousand_connections,
}

fn echoes(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let client = connect(address);
    let (id, peer) = rig.event("Accepted", |told| match told {
        Told::Accepted(id, peer) => Some((*id, *peer)),
        _ => None,
    });
    assert_eq!(peer, client.local_addr().unwrap());
    rig.engine.read(id, ReadMode::Continuous);
    for round in 0..50_u8 {
        let sent = vec![round; 1 + usize::from(round) * 7];
        (&client).write_all(&sent).unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < sent.len() {
            bytes.extend(rig.received(id));
        }
        assert_eq!(bytes, sent);
        rig.engine.write(id, bytes);
        assert_eq!(rig.written(id), sent, "the buffer comes back as it was");
        let mut answer = vec![0; sent.len()];
        (&client).read_exact(&mut answer).unwrap();
        assert_eq!(answer, sent);
    }
    drop(client);
    assert_eq!(rig.disconnected(id), Disconnect::Eof);
    rig.engine.close(id);
    let stats = rig.engine.stats();
    assert!(stats.enters > 0 && stats.submissions > 0 && stats.completions > 0);
}

fn reads_nothing_unasked(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    client.write_all(b"early").unwrap();
    rig.settle(address);
    rig.assert_silent(id);
    assert_eq!(rig.collect(id, 5, ReadMode::Once), b"early");
}

fn once_gives_one_event(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Once);
    client.write_all(b"one").unwrap();
    assert_eq!(rig.received(id), b"one");
    client.write_all(b"two").unwrap();
    rig.settle(address);
    rig.assert_silent(id);
    rig.engine.read(id, ReadMode::Once);
    assert_eq!(rig.received(id), b"two");
    drop(client);
    rig.settle(address);
    rig.assert_silent(id);
    rig.engine.read(id, ReadMode::Once);
    assert_eq!(rig.disconnected(id), Disconnect::Eof);
}

fn once_while_continuous_gives_one_event_more(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    client.write_all(b"one").unwrap();
    assert_eq!(rig.collect(id, 3, ReadMode::Continuous), b"one");
    // Nothing waits while the mode changes.
    rig.engine.read(id, ReadMode::Once);
    rig.settle(address);
    client.write_all(b"two").unwrap();
    assert_eq!(rig.received(id), b"two");
    client.write_all(b"three").unwrap();
    rig.settle(address);
    rig.assert_silent(id);
    // Bytes wait while the mode changes.
    assert_eq!(rig.collect(id, 5, ReadMode::Continuous), b"three");
    client.write_all(b"four").unwrap();
    rig.engine.read(id, ReadMode::Once);
    assert_eq!(rig.received(id), b"four");
    rig.settle(address);
    rig.assert_silent(id);
    drop(rig.engine.release(id));
}

fn continuous_while_once_goes_on(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Once);
    rig.settle(address);
    rig.engine.read(id, ReadMode::Continuous);
    for word in [&b"one"[..], b"two", b"three"] {
        client.write_all(word).unwrap();
        assert_eq!(rig.received(id), word);
    }
}

fn a_big_write_to_a_slow_reader_is_whole(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    let sent = pattern(8 << 20);
    let expected = sent.clone();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut chunk = vec![0; 10_007];
        while bytes.len() < expected.len() {
            let count = client.read(&mut chunk).unwrap();
            assert_ne!(count, 0, "ended after {} bytes", bytes.len());
            bytes.extend_from_slice(&chunk[..count]);
            thread::yield_now();
        }
        assert!(bytes == expected, "8 MiB arrived changed");
    });
    rig.engine.write(id, sent);
    let buffer = rig.written(id);
    assert_eq!(buffer.len(), 8 << 20);
    assert!(buffer == pattern(8 << 20));
    assert!(rig.told.is_empty(), "told besides Written: {:?}", rig.told);
    reader.join().unwrap();
}

fn a_big_read_in_both_modes_is_whole(kind: EngineKind) {
    for mode in [ReadMode::Once, ReadMode::Continuous] {
        let mut rig = Rig::new(kind);
        let address = rig.listen();
        let (mut client, id) = rig.pair(address);
        let sent = pattern(2 << 20);
        let expected = sent.clone();
        let writer = thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client
        });
        let bytes = rig.collect(id, expected.len(), mode);
        assert!(bytes == expected, "2 MiB arrived changed, {mode:?}");
        drop(writer.join().unwrap());
    }
}

fn writes_of_many_connections_go_out_together(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let pairs: Vec<_> = (0..40).map(|_| rig.pair(address)).collect();
    for (number, (_, id)) in pairs.iter().enumerate() {
        rig.engine.write(*id, vec![number as u8; 100]);
    }
    // Submitting alone is enough to send.
    rig.engine.submit().unwrap();
    for (number, (client, _)) in pairs.iter().enumerate() {
        if kind == EngineKind::TokioUring {
            // Its operations start inside its runtime.
            rig.poll(Duration::ZERO);
        }
        let mut bytes = [0; 100];
        (&mut &*client).read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [number as u8; 100]);
    }
    for (_, id) in &pairs {
        rig.written(*id);
    }
}

fn two_tiny_buffers_lose_nothing(kind: EngineKind) {
    let mut rig = Rig::with(kind, &EngineConfig { receive_buffers: 2, receive_buffer_bytes: 64, ..small() });
    let address = rig.listen();
    let pairs: Vec<_> = (0..20).map(|_| rig.pair(address)).collect();
    let sent = pattern(5_000);
    for (client, _) in &pairs {
        (&mut &*client).write_all(&sent).unwrap();
    }
    for (number, (_, id)) in pairs.iter().enumerate() {
        let mode = if number % 2 == 0 { ReadMode::Continuous } else { ReadMode::Once };
        rig.engine.read(*id, mode);
    }
    let mut received = vec![Vec::new(); pairs.len()];
    rig.until("all bytes of all", |rig| {
        for told in std::mem::take(&mut rig.told) {
            let Told::Received(id, bytes) = told else {
                panic!("{told:?}");
            };
            let number = pairs.iter().position(|pair| pair.1 == id).unwrap();
            received[number].extend(bytes);
            if number % 2 == 1 {
                rig.engine.read(id, ReadMode::Once);
            }
        }
        received.iter().all(|bytes| bytes.len() >= sent.len()).then_some(())
    });
    assert!(received.iter().all(|bytes| *bytes == sent));
    if kind == EngineKind::Ring {
        assert!(rig.engine.stats().buffer_shortages > 0, "no shortage was met");
    }
}

fn more_operations_than_the_queues_hold(kind: EngineKind) {
    let mut rig = Rig::with(
        kind,
        &EngineConfig {
            submission_entries: 4,
            completion_entries: 8,
            receive_buffers: 16,
            receive_buffer_bytes: 256,
            ..EngineConfig::default()
        },
    );
    let address = rig.listen();
    let pairs: Vec<_> = (0..100).map(|_| rig.pair(address)).collect();
    for (client, id) in &pairs {
        rig.engine.read(*id, ReadMode::Continuous);
        rig.engine.write(*id, vec![b'w'; 200]);
        (&mut &*client).write_all(&[b'r'; 1000]).unwrap();
    }
    let mut left: Vec<(usize, usize)> = vec![(1000, 1); pairs.len()];
    rig.until("every byte and every write", |rig| {
        for told in rig.told.drain(..) {
            let id = told.connection().unwrap();
            let number = pairs.iter().position(|pair| pair.1 == id).unwrap();
            match told {
                Told::Received(_, bytes) => left[number].0 -= bytes.len(),
                Told::Written(..) => left[number].1 -= 1,
                other => panic!("{other:?}"),
            }
        }
        left.iter().all(|left| *left == (0, 0)).then_some(())
    });
    if kind == EngineKind::Ring {
        assert!(rig.engine.stats().completion_overflows > 0, "no overflow was met");
    }
    for (client, _) in &pairs {
        let mut bytes = [0; 200];
        (&mut &*client).read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [b'w'; 200]);
    }
}

fn a_thousand_connections(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let pairs: Vec<_> = (0..1000)
        .map(|number: u32| {
            let (client, id) = rig.pair(address);
            rig.engine.read(id, ReadMode::Continuous);
            (&client).write_all(&number.to_be_bytes()).unwrap();
            (client, id)
        })
        .collect();
    for (number, (_, id)) in pairs.iter().enumerate() {
        let mut bytes = Vec::new();
        while bytes.len() < 4 {
            bytes.extend(rig.received(*id));
        }
        assert_eq!(bytes, (number as u32).to_be_bytes());
        rig.engine.write(*id, bytes);
    }
    for (_, id) in &pairs {
        rig.written(*id);
    }
    for (number, (client, id)) in pairs.iter().enumerate() {
        let mut bytes = [0; 4];
        (&mut &*client).read_exact(&mut bytes).unwrap();
        assert_eq!(u32::from_be_bytes(bytes), number as u32);
        rig.engine.close(*id);
    }
    rig.poll(Duration::ZERO);
    for (client, _) in pairs {
        match (&client).read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("open after close: {other:?}"),
        }
    }
}
