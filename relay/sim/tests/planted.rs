//! The rules can fail: each planted fault is found by the rule that is about it.

use relay_sim::{Invariant, Overrides, Plant, RunOptions, run};

/// Seeds within which a fault must be found.
const SEEDS: u64 = 1000;

/// Runs seeds with a fault until a rule has spoken. Other rules may speak in other seeds: a fault
/// shows in several ways.
fn is_found(plant: Plant, store: bool, rule: Invariant) {
    let overrides = Overrides { shards: Some(3), store: Some(store), ..Overrides::default() };
    let options = RunOptions { overrides, plant: Some(plant), trace: false };
    let mut others = Vec::new();
    for seed in 0..SEEDS {
        let Some(failure) = run(seed, &options).failure else { continue };
        if failure.violation.invariant == rule {
            assert!(!failure.last.is_empty(), "what led there is told");
            return;
        }
        others.push(failure.violation.invariant);
    }
    panic!("{plant:?} does not break {rule} within {SEEDS} seeds, only {others:?}");
}

macro_rules! planted {
    ($($store:literal { $($name:ident: $plant:ident breaks $($rule:ident),+;)+ })+) => {
        $($(
            #[test]
            fn $name() {
                $(is_found(Plant::$plant, $store == "with a store", Invariant::$rule);)+
            }
        )+)+

        #[test]
        fn every_fault_has_its_test() {
            let tested = [$($(Plant::$plant),+),+];
            let missed: Vec<_> = Plant::ALL.iter().filter(|plant| !tested.contains(plant)).collect();
            assert!(missed.is_empty(), "{missed:?}");
        }
    };
}

planted! {
    "without a store" {
        lost_message: LoseDeliver breaks AnswerMissing, Accounting;
        lost_answer: LoseDelivered breaks AnswerMissing;
        repeated_message: RepeatDeliver breaks DeliveredTwice;
        overtaking_message: SwapDelivers breaks PairOrder;
        altered_message: AlterDeliver breaks BytesDiffer;
        misdirected_message: MisdirectDeliver breaks WrongRecipient;
        acked_and_forgotten: AckAndForget breaks AckedLost;
        invented_online: InventOnline breaks AnswerWrong;
        invented_offline: InventOffline breaks FalseOffline;
        ghost: HideLeft breaks LobbyTruth, LobbyDelta;
        lost_connection: LoseHandOver breaks LoginMissing;
        misdirected_connection: MisdirectHandOver breaks LobbyDelta, Epoch;
        flipped_byte: FlipByte breaks FrameForm, Opening;
        repeated_write: RepeatWrite breaks SeqGapless, LobbyRevision, AnswerSurplus;
        lost_write: LoseWrite breaks LobbyDigest, SeqGapless;
        ignored_close: IgnoreClose breaks ConnectionLeak;
        ignored_timers: IgnoreTimers breaks SilentAlive, UnexpectedEnd;
        trusted_signatures: TrustSignatures breaks BadSignature;
        forgotten_ids: ForgetIds breaks IdTwice, DeliveredTwice;
        loose_outbox: LooseOutbox breaks OutboxBound;
        mean_rate: MeanRate breaks AnswerWrong;
        invented_read: InventRead breaks ReceiptFalse;
        repeated_receipt: RepeatReceipt breaks ReceiptTwice;
    }
    "with a store" {
        dropped_sync: DropSync breaks AckEarly;
        early_ack: AckEarly breaks AckEarly;
        skipped_cursor: SkipCursor breaks AckedLost;
        forgotten_stored_ids: ForgetStoredIds breaks IdForgotten;
        trusted_record: TrustRecord breaks SeqConsistent;
        lost_entry: LoseEntry breaks AckedLost;
        lost_page: LosePage breaks AckedLost;
        lost_own_copies: LoseOwnCopies breaks OwnCopyLost;
        forgotten_origin: ForgetOrigin breaks OwnCopyBack;
        forgotten_resume: ForgetResume breaks ResumeRefused;
        forgotten_epoch: ForgetEpoch breaks Epoch;
        lost_users: LoseUsers breaks StoreContract;
        leaked_private_message: LeakPrivate breaks PrivateLeak;
        leaked_room_message: LeakRoom breaks RoomLeak;
        forgotten_member: ForgetMember breaks MembershipLost;
        invented_member: InventMember breaks MembershipGhost;
    }
}
