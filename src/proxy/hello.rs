//! The ClientHello, looked at in the kernel: nothing is read before the whole of it is there.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::io::ioctl_fionread;
use rustix::net::RecvFlags;
use rustix::net::recv;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The header of a record and that of a handshake message (RFC 8446, sections 5.1 and 4), bytes.
const HEAD: usize = 9;
/// The header of a record, bytes.
const RECORD: usize = 5;
/// A longer ClientHello is read once so much of it is there, bytes.
const MOST: usize = 16 << 10;

/// Waits until the whole ClientHello has come, or something that no more bytes can make one, or the end.
pub(super) async fn arrive(socket: &TcpStream) {
    let whole = || if is_here(socket) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
    // An error of the socket comes up again when it is read. An end is not forgotten when it was looked at, so that waiting
    // for more would not wait.
    while socket.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
        if socket.try_io(Interest::READABLE, whole).is_ok() {
            return;
        }
    }
}

/// True if the kernel holds a whole ClientHello, or something that no more bytes can make one.
pub(super) fn is_here(socket: &TcpStream) -> bool {
    let mut head = [0; HEAD];
    match recv(socket.as_fd(), &mut head[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(Errno::AGAIN | Errno::INTR) => false,
        Err(_) | Ok((0, _)) => true,
        Ok((count, _)) => {
            let wanted = wanted(head.get(..count).unwrap_or_default());
            wanted <= count || ioctl_fionread(socket.as_fd()).is_ok_and(|held| held >= wanted as u64)
        }
    }
}

/// The bytes of a ClientHello that begins like this, as far as that can be told; 0 if it is none.
fn wanted(head: &[u8]) -> usize {
    let is = |at: usize, byte: u8| head.get(at).is_none_or(|seen| *seen == byte);
    // A handshake record, SSL 3 or TLS, a ClientHello.
    if !(is(0, 22) && is(1, 3) && is(RECORD, 1)) {
        return 0;
    }
    match *head {
        // The message's header goes on in the next record.
        [_, _, _, 0, 0..4, ..] => RECORD,
        [_, _, _, _, _, _, a, b, c] => {
            let length = u32::from_be_bytes([0, a, b, c]);
            usize::try_from(length).unwrap_or(MOST).saturating_add(HEAD).min(MOST)
        }
        _ => HEAD,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_length_is_read_as_far_as_it_is_there() {
        for (head, bytes) in [
            (&[22][..], HEAD),
            (&[22, 3, 1, 0, 200], HEAD),
            (&[22, 3, 1, 0, 200, 1, 0, 0, 196], 205),
            (&[22, 3, 1, 64, 0, 1, 255, 255, 255], MOST),
            (&[22, 3, 3, 0, 2, 1, 0], RECORD),
            (b"GET / HTT", 0),
            (&[22, 3, 1, 0, 200, 2], 0),
            (&[21], 0),
        ] {
            assert_eq!(wanted(head), bytes, "{head:?}");
        }
    }

    #[tokio::test]
    async fn it_is_here_with_its_last_byte_and_stays_in_the_kernel() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let hello = [&[22, 3, 1, 0, 8, 1, 0, 0, 4][..], &[3; 4]].concat();
        assert!(!is_here(&socket));
        let (last, first) = hello.split_last().unwrap();
        for byte in first {
            client.write_all(&[*byte]).await.unwrap();
        }
        while rustix::io::ioctl_fionread(&socket).unwrap() < first.len() as u64 {
            tokio::task::yield_now().await;
        }
        assert!(!is_here(&socket));
        client.write_all(&[*last]).await.unwrap();
        arrive(&socket).await;
        let mut read = vec![0; hello.len() + 1];
        let count = socket.try_read(&mut read).unwrap();
        assert_eq!(read.get(..count).unwrap(), hello);
    }

    /// Seen failing, with a thread that never rests, where an end after a part was waited out.
    #[tokio::test]
    async fn an_end_is_not_waited_for() {
        for part in [&[][..], &[22], &[22, 3, 1, 0, 200, 1, 0, 0, 196]] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            client.write_all(part).await.unwrap();
            client.shutdown().await.unwrap();
            arrive(&socket).await;
        }
    }
}
