//! Real threads: questions are routed while experts come and go.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use hublabio_moe::{
    ExpertConfig, ExpertDomain, ExpertId, ExpertProfile, RouteQuery, Router, RoutingStrategy, SessionId, SharedRouter,
};

const EXPERTS: u32 = 32;
const THREADS: usize = 8;
const CALLS: usize = 1_000;

fn expert(id: u32, version: u32) -> (ExpertConfig, ExpertProfile) {
    let domain = ExpertDomain { name: String::new(), keywords: vec![format!("topic{id}")], threshold: 0.5 };
    let config = ExpertConfig {
        id: ExpertId(id),
        name: format!("expert {id}.{version}"),
        description: String::new(),
        domain,
        model_path: String::new(),
        node_id: None,
        priority: 0,
    };
    let examples = vec![format!("what about topic{id}"), format!("tell me of subject{id}")];
    (config, ExpertProfile { generalist: id == 0, examples, ..ExpertProfile::default() })
}

#[test]
fn a_thousand_calls_while_experts_come_and_go() {
    let router = SharedRouter::new(Router::default());
    for id in 0..EXPERTS {
        let (config, profile) = expert(id, 0);
        router.register_with(config, profile);
    }
    let (done, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        // Ids 0 to 15 stay, the others are removed and come again.
        scope.spawn(|| {
            for version in 1.. {
                for id in EXPERTS / 2..EXPERTS {
                    assert!(router.remove(ExpertId(id)));
                    let (config, profile) = expert(id, version);
                    router.register_with(config, profile);
                    changes.fetch_add(1, Ordering::Relaxed);
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let callers: Vec<_> = (0..THREADS)
            .map(|caller| {
                let router = router.clone();
                scope.spawn(move || {
                    for call in 0..CALLS / THREADS {
                        let topic = (caller * 131 + call * 7) as u32 % (EXPERTS - 1) + 1;
                        let text = format!("what about topic{topic}, please?");
                        let session = Some(SessionId((caller * CALLS + call) as u64));
                        let query = RouteQuery { text: &text, session, ..RouteQuery::default() };
                        let decision = router.route(&query, RoutingStrategy::Single, None).unwrap();
                        if topic < EXPERTS / 2 {
                            assert_eq!(decision.selected, [ExpertId(topic)], "{decision:?}");
                            assert!(router.is_current(&decision));
                        } else {
                            // It was away, or it was there in some version.
                            assert!([vec![ExpertId(topic)], vec![ExpertId(0)]].contains(&decision.selected));
                        }
                        assert!(decision.confidence.len() as u32 >= EXPERTS - 1);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(changes.load(Ordering::Relaxed) > 0);
    assert_eq!(router.read(Router::len), EXPERTS as usize);
}
