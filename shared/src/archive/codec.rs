//! The compression codecs of record batches.
//!
//! snappy comes in two framings: Java's clients write xerial's blocks (magic `\x82SNAPPY\0`), others the raw format; both are read.

use std::io::{self, Read, Write};

use lz4_flex::frame::{BlockSize, FrameEncoder, FrameInfo};

/// Compression of a record batch, with Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As it is.
    None,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd frames.
    Zstd,
}

const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: usize = 16;

impl Codec {
    /// The codec of a batch's attributes; `None` for a number that Kafka does not know.
    pub fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Kafka's number.
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Decodes the records of a batch, at most `limit` bytes.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not in this format or decode to more than `limit`.
    pub fn decompress(self, data: &[u8], limit: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::None if data.len() > limit => Err(too_large(limit)),
            Self::None => Ok(data.to_vec()),
            Self::Gzip => read_all(flate2::read::MultiGzDecoder::new(data), limit),
            Self::Snappy => decompress_snappy(data, limit),
            Self::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(data), limit),
            Self::Zstd => read_all(zstd::stream::Decoder::with_buffer(data)?, limit),
        }
    }

    /// Encodes the records of a batch, as Java's clients would.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn compress(self, data: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(data.to_vec()),
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(data)?;
                encoder.finish()
            }
            Self::Snappy => snap::raw::Encoder::new()
                .compress_vec(data)
                .map_err(io::Error::other),
            Self::Lz4 => {
                let mut encoder = FrameEncoder::new(Vec::new());
                encoder.write_all(data)?;
                encoder.finish().map_err(io::Error::other)
            }
            Self::Zstd => zstd::stream::encode_all(data, zstd::DEFAULT_COMPRESSION_LEVEL),
        }
    }
}

/// zstd's level where none is asked for: on JSON as small as Java's usual 3 within a few percent, at half the CPU.
const ZSTD_LEVEL: u8 = 1;

/// Compresses one batch after another with one codec and level, and keeps what that takes.
pub struct Compressor {
    codec: Codec,
    gzip: flate2::Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Compressor {
    /// A compressor; only gzip (1 to 9, else 6) and zstd (1 to 22, else 1) have levels.
    ///
    /// # Errors
    /// The codec does not know the level.
    pub fn new(codec: Codec, level: Option<u8>) -> io::Result<Self> {
        let gzip = level.map_or(flate2::Compression::default(), |level| {
            flate2::Compression::new(level.into())
        });
        let zstd = match codec {
            Codec::Zstd => Some(zstd::bulk::Compressor::new(
                level.unwrap_or(ZSTD_LEVEL).into(),
            )?),
            Codec::None | Codec::Gzip | Codec::Snappy | Codec::Lz4 => None,
        };
        Ok(Self {
            codec,
            gzip,
            zstd,
            out: Vec::new(),
        })
    }

    /// Encodes the records of a batch, as Java's clients would; good until the next call.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn compress(&mut self, data: &[u8]) -> io::Result<&[u8]> {
        self.out.clear();
        match (self.codec, &mut self.zstd) {
            (Codec::Zstd, Some(zstd)) => {
                self.out
                    .reserve(zstd::zstd_safe::compress_bound(data.len()));
                zstd.compress_to_buffer(data, &mut self.out)?;
            }
            (Codec::Gzip, _) => {
                let mut encoder = flate2::write::GzEncoder::new(&mut self.out, self.gzip);
                encoder.write_all(data)?;
                encoder.finish()?;
            }
            (Codec::Lz4, _) => {
                // Java's block size; larger ones would take their memory anew for every batch.
                let info = FrameInfo::new().block_size(BlockSize::Max64KB);
                let mut encoder = FrameEncoder::with_frame_info(info, &mut self.out);
                encoder.write_all(data)?;
                encoder.finish().map_err(io::Error::other)?;
            }
            (Codec::None | Codec::Snappy | Codec::Zstd, _) => {
                self.out = self.codec.compress(data)?;
            }
        }
        Ok(&self.out)
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compressor({:?})", self.codec)
    }
}

fn too_large(limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("decodes to more than {limit} bytes"),
    )
}

fn read_all(reader: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit {
        return Err(too_large(limit));
    }
    Ok(out)
}

fn decompress_snappy(data: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut decoder = snap::raw::Decoder::new();
    let mut append = |block: &[u8], out: &mut Vec<u8>| -> io::Result<()> {
        let length = snap::raw::decompress_len(block).map_err(io::Error::from)?;
        if out.len() + length > limit {
            return Err(too_large(limit));
        }
        // Three bytes make at most 64; a block that announces more would only take memory.
        if length > block.len().saturating_mul(22) {
            let reason = "snappy block announces more than it can hold";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        out.extend_from_slice(&decoder.decompress_vec(block).map_err(io::Error::from)?);
        Ok(())
    };
    if !data.starts_with(XERIAL_MAGIC) {
        append(data, &mut out)?;
        return Ok(out);
    }
    let truncated = || io::Error::new(io::ErrorKind::InvalidData, "truncated snappy block");
    let mut rest = data.get(XERIAL_HEADER..).ok_or_else(truncated)?;
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
        let length = u32::from_be_bytes(*length) as usize;
        append(tail.get(..length).ok_or_else(truncated)?, &mut out)?;
        rest = &tail[length..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    #[test]
    fn every_codec_round_trips_and_obeys_its_limit() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i / 7 % 251) as u8).collect();
        for codec in ALL {
            assert_eq!(Codec::from_id(codec.id()), Some(codec));
            for length in [0, 1, 65_536, data.len()] {
                let packed = codec.compress(&data[..length]).unwrap();
                assert_eq!(
                    codec.decompress(&packed, length).unwrap(),
                    data[..length],
                    "{codec:?}"
                );
                if length > 0 {
                    assert!(
                        codec.decompress(&packed, length - 1).is_err(),
                        "{codec:?} {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_compressor_makes_what_its_codec_reads_and_a_level_counts() {
        let data: Vec<u8> = (0..100_000u32)
            .flat_map(|i| (i.wrapping_mul(2_654_435_761) % 1000).to_be_bytes())
            .collect();
        for codec in ALL {
            let mut compressor = Compressor::new(codec, None).unwrap();
            for length in [data.len(), 0, 70_000] {
                let packed = compressor.compress(&data[..length]).unwrap();
                assert_eq!(codec.decompress(packed, length).unwrap(), data[..length]);
            }
        }
        for (codec, highest) in [(Codec::Gzip, 9), (Codec::Zstd, 19)] {
            let size = |level| {
                let mut compressor = Compressor::new(codec, Some(level)).unwrap();
                compressor.compress(&data).unwrap().len()
            };
            assert!(size(highest) < size(1), "{codec:?}");
        }
    }

    #[test]
    fn xerial_snappy_blocks_are_read() {
        let mut framed = [XERIAL_MAGIC, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for part in [&b"hello "[..], b"world"] {
            let block = Codec::Snappy.compress(part).unwrap();
            framed.extend_from_slice(&(block.len() as u32).to_be_bytes());
            framed.extend_from_slice(&block);
        }
        assert_eq!(
            Codec::Snappy.decompress(&framed, 100).unwrap(),
            b"hello world"
        );
        framed.pop();
        assert!(Codec::Snappy.decompress(&framed, 100).is_err());
    }
}
