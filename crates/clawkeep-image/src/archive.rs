//! A layer's archive, uncompressed, and no more of it than any system has.

use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::document::Compression;
use crate::error::ImageError;

/// Bytes in all layers of an image at most, unpacked.
pub const MAX_BYTES: u64 = 64 << 30;

/// What a reader says that would give more than is allowed.
#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_BYTES} bytes")]
pub struct TooMuch;

/// Read a compressed blob's content; `left` is what may still come, over all layers.
pub fn open<'a>(blob: impl Read + 'a, compression: Compression, left: &'a mut u64) -> impl Read + 'a {
    let blob = BufReader::with_capacity(128 * 1024, blob);
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => Box::new(Frames { at: Some(At::Between(blob)) }),
    };
    Bounded { inner, left }
}

/// Gives no more than is left.
struct Bounded<'a> {
    inner: Box<dyn Read + 'a>,
    left: &'a mut u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        *self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(TooMuch))?;
        Ok(read)
    }
}

/// One zstd frame behind the other, as layers that can be fetched in parts have them (RFC 8878, 3.1).
struct Frames<R: BufRead> {
    /// Missing only after an error.
    at: Option<At<R>>,
}

enum At<R: BufRead> {
    Between(R),
    In(R, Box<FrameDecoder>),
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match self.at.take().ok_or(io::ErrorKind::InvalidData)? {
                At::Between(mut source) => {
                    if source.fill_buf()?.is_empty() {
                        self.at = Some(At::Between(source));
                        return Ok(0);
                    }
                    let mut decoder = FrameDecoder::new();
                    match decoder.init(&mut source) {
                        Ok(()) => self.at = Some(At::In(source, Box::new(decoder))),
                        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                            length,
                            ..
                        })) => {
                            let length = u64::from(length);
                            if io::copy(&mut (&mut source).take(length), &mut io::sink())? < length {
                                return Err(io::ErrorKind::UnexpectedEof.into());
                            }
                            self.at = Some(At::Between(source));
                        }
                        Err(error) => return Err(io::Error::other(error)),
                    }
                }
                At::In(mut source, mut decoder) => {
                    while decoder.can_collect() == 0 && !decoder.is_finished() {
                        let some = BlockDecodingStrategy::UptoBytes(into.len());
                        decoder.decode_blocks(&mut source, some).map_err(io::Error::other)?;
                    }
                    let read = decoder.read(into)?;
                    if read > 0 {
                        self.at = Some(At::In(source, decoder));
                        return Ok(read);
                    }
                    self.at = Some(At::Between(source));
                }
            }
        }
    }
}

/// What is wrong with a layer, from what reading it gave.
pub fn problem(layer: &str, error: io::Error) -> ImageError {
    if error.get_ref().is_some_and(|inner| inner.is::<TooMuch>()) {
        return ImageError::TooLarge(format!("{} GiB", MAX_BYTES >> 30));
    }
    ImageError::Malformed { what: format!("layer sha256:{layer}"), problem: error.to_string() }
}
