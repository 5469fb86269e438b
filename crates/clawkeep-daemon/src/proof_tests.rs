use clawkeep_egress::{Authority, LivePolicy, NoCallers, Proxy};
use clawkeep_inference::{Route, Timeouts};
use clawkeep_policy::Matcher;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

/// A proxy before this service; gives its address, and the certificates that lead to it.
async fn proxy(service: Service) -> (std::net::SocketAddr, String) {
    let authority = Authority::generate().unwrap();
    let (events, _) = mpsc::channel(1);
    let policy = LivePolicy::new(Matcher::nothing());
    let proxy =
        Proxy::new(&authority, LiveService::new(service), policy, Arc::new(NoCallers), events).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(proxy.serve(listener, std::future::pending()));
    (address, authority.bundle(""))
}

async fn asked(address: std::net::SocketAddr, bundle: &str) -> Result<Answer, Broken> {
    ask(TcpStream::connect(address).await.unwrap(), bundle.as_bytes(), "word").await
}

#[tokio::test]
async fn the_whole_way_is_gone_and_each_place_is_told_where_it_ends() {
    let (address, bundle) = proxy(Service::canary()).await;
    assert_eq!(asked(address, &bundle).await.unwrap().status, StatusCode::OK);

    // Programs that trust somebody else, or nobody.
    let (_, strangers) = proxy(Service::canary()).await;
    let why = |broken| match broken {
        Err(Broken::Trust(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(why(asked(address, &strangers).await).contains("invalid peer certificate"));
    assert!(why(asked(address, "no certificate").await).contains("has no certificate in it"));

    // A proxy that hangs up, that refuses, and that speaks of something else.
    for said in ["", "HTTP/1.1 503 Busy\r\n\r\n", "SSH-2.0-x\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 256]).await;
            let _ = stream.write_all(said.as_bytes()).await;
        });
        assert!(matches!(asked(dead, &bundle).await, Err(Broken::Proxy(_))), "{said:?}");
    }

    // A provider that is not there.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{gone}/v1");
    let route = Route::new(clawkeep_inference::Provider::Custom, Some(&url), "m", false).unwrap();
    let (address, bundle) = proxy(Service::with_keys(route, Vec::new(), Timeouts::default()).unwrap()).await;
    let answer = asked(address, &bundle).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.code.as_deref()), (502, Some("upstream_connect")));
}
