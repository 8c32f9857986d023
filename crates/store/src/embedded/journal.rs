//! The journal: every commit is one frame appended to a file and synced, a few kilobytes even for a lone small
//! write. Frames are moved into the database (a checkpoint) many at a time and off the commit thread.
//!
//! Two files take turns: generation g is in file g mod 2, and is overwritten only after its checkpoint, so a
//! file's blocks are used again and again and a sync has nothing but the frame to write. The database knows the
//! oldest generation it does not have. A frame is synced before the next one begins, so only the last one
//! can be incomplete after a crash; anything else that does not add up is damage.
//!
//! A frame: `magic (4) | generation (8) | sequence (8) | length (4) | crc32 (4) | payload`, little endian; the
//! checksum covers all but itself and starts from a number private to the database.

use super::failpoints::{Failpoints, Step};
use redb::StorageBackend;
use std::io;

const MAGIC: [u8; 4] = *b"KNJ1";
const HEADER: usize = 4 + 8 + 8 + 4 + 4;
/// The file is made longer by this much at a time, filled with zeros, so that most frames overwrite.
const GROW_BYTES: u64 = 256 << 10;

/// The journal files, open for appending. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Journal {
    files: [Box<dyn StorageBackend>; 2],
    /// Up to where each file is filled.
    filled: [u64; 2],
    salt: u32,
    generation: u64,
    sequence: u64,
    offset: u64,
    frame: Vec<u8>,
    pub failpoints: Failpoints,
}

/// What was found in the journal.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The payloads of complete frames the database does not have, in order.
    pub payloads: Vec<Vec<u8>>,
    /// The first generation that is free to be written.
    pub next_generation: u64,
}

/// Why the journal could not be read.
#[derive(Debug)]
pub(crate) enum JournalError {
    /// A call to the operating system failed.
    Io(io::Error),
    /// The contents make no sense.
    Damaged(String),
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the frames of generation `wanted` (the oldest that the database does not have) and later.
pub(crate) fn recover(
    files: &[Box<dyn StorageBackend>; 2],
    salt: u32,
    wanted: u64,
) -> Result<Recovered, JournalError> {
    let mut found = Vec::new();
    for file in files {
        let mut bytes = vec![0; usize::try_from(file.len()?).expect("a journal fits in memory")];
        file.read(0, &mut bytes)?;
        let content = parse(&bytes, salt, wanted)?;
        found.extend(content);
    }
    found.sort_by_key(|(generation, _)| *generation);
    let mut recovered = Recovered { payloads: Vec::new(), next_generation: wanted };
    for (generation, payloads) in found {
        if generation != recovered.next_generation {
            return Err(JournalError::Damaged(format!(
                "generation {} is missing before {generation}",
                recovered.next_generation
            )));
        }
        recovered.next_generation += 1;
        recovered.payloads.extend(payloads);
    }
    Ok(recovered)
}

type Content = (u64, Vec<Vec<u8>>);

/// The generation of a file and its frames; `None` when it has none that is `wanted` or later.
fn parse(bytes: &[u8], salt: u32, wanted: u64) -> Result<Option<Content>, JournalError> {
    let generation = frame_at(bytes, 0, salt).map(|frame| frame.generation);
    if generation.is_some_and(|generation| generation < wanted) {
        return Ok(None);
    }
    let mut payloads = Vec::new();
    let mut at = 0;
    while let Some(frame) = frame_at(bytes, at, salt)
        && Some(frame.generation) == generation
        && frame.sequence == payloads.len() as u64
    {
        at += HEADER + frame.payload.len();
        payloads.push(frame.payload.to_vec());
    }
    // Whatever stands here is not a frame of this generation in its turn. If a later one follows, the one that
    // should be here was once complete.
    for later in at + 1..bytes.len().saturating_sub(HEADER) {
        if bytes[later] == MAGIC[0]
            && let Some(frame) = frame_at(bytes, later, salt)
            && frame.generation >= wanted
        {
            let number = payloads.len();
            return Err(JournalError::Damaged(format!("frame {number} is damaged, and a later one is not")));
        }
    }
    Ok(generation.map(|generation| (generation, payloads)))
}

struct Frame<'a> {
    generation: u64,
    sequence: u64,
    payload: &'a [u8],
}

fn frame_at(bytes: &[u8], at: usize, salt: u32) -> Option<Frame<'_>> {
    let header = bytes.get(at..at + HEADER)?;
    let (checked, checksum) = header.split_at(HEADER - 4);
    let (magic, numbers) = checked.split_at(4);
    if magic != MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(numbers[16..20].try_into().expect("four bytes")) as usize;
    let payload = bytes.get(at + HEADER..)?.get(..len)?;
    if crc(salt, checked, payload) != u32::from_le_bytes(checksum.try_into().expect("four bytes")) {
        return None;
    }
    let number = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
    Some(Frame { generation: number(0), sequence: number(8), payload })
}

fn crc(salt: u32, header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(&salt.to_le_bytes());
    crc.update(header);
    crc.update(payload);
    crc.sum()
}

impl Journal {
    /// A journal that starts with `generation`.
    pub fn new(files: [Box<dyn StorageBackend>; 2], salt: u32, generation: u64) -> io::Result<Self> {
        let filled = [files[0].len()?, files[1].len()?];
        Ok(Self {
            files,
            filled,
            salt,
            generation,
            sequence: 0,
            offset: 0,
            frame: Vec::new(),
            failpoints: Failpoints::default(),
        })
    }

    /// The generation being written.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of frames in it.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Both files' length.
    pub fn file_bytes(&self) -> u64 {
        self.filled.iter().sum()
    }

    /// Appends a frame and syncs it. After an error the frame is not there, unless the sync failed.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.frame.clear();
        self.frame.extend_from_slice(&MAGIC);
        self.frame.extend_from_slice(&self.generation.to_le_bytes());
        self.frame.extend_from_slice(&self.sequence.to_le_bytes());
        let len = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.frame.extend_from_slice(&len.to_le_bytes());
        let checksum = crc(self.salt, &self.frame, payload);
        self.frame.extend_from_slice(&checksum.to_le_bytes());
        self.frame.extend_from_slice(payload);

        self.failpoints.hit(Step::Write)?;
        let index = usize::from(self.generation % 2 == 1);
        let end = self.offset + self.frame.len() as u64;
        if end > self.filled[index] {
            // If the disk is full this is where it shows, before the frame is begun.
            let grown = end.next_multiple_of(GROW_BYTES);
            let zeros = vec![0; usize::try_from(grown - self.filled[index]).expect("a frame fits in memory")];
            self.files[index].write(self.filled[index], &zeros)?;
            self.filled[index] = grown;
        }
        self.files[index].write(self.offset, &self.frame)?;
        self.failpoints.hit(Step::Sync)?;
        self.files[index].sync_data()?;
        self.failpoints.hit(Step::Synced)?;
        self.offset = end;
        self.sequence += 1;
        if self.frame.capacity() > 1 << 20 {
            self.frame = Vec::new();
        }
        Ok(())
    }

    /// Starts the next generation, over one whose checkpoint is done.
    pub fn rotate(&mut self) {
        self.generation += 1;
        self.sequence = 0;
        self.offset = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;

    const SALT: u32 = 99;

    fn files() -> [Box<dyn StorageBackend>; 2] {
        [Box::new(InMemoryBackend::new()), Box::new(InMemoryBackend::new())]
    }

    fn image(file: &dyn StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read(0, &mut bytes).unwrap();
        bytes
    }

    fn from_images(images: &[Vec<u8>; 2]) -> [Box<dyn StorageBackend>; 2] {
        let made = files();
        for (file, image) in made.iter().zip(images) {
            file.set_len(image.len() as u64).unwrap();
            file.write(0, image).unwrap();
        }
        made
    }

    /// A journal with generations 4 (stale), 5 and 6, of three frames each.
    fn sample() -> [Vec<u8>; 2] {
        let mut journal = Journal::new(files().map(grown), SALT, 4).unwrap();
        for generation in 4..7u8 {
            if generation > 4 {
                journal.rotate();
            }
            for frame in 0..3u8 {
                journal.append(&[generation, frame].repeat(50)).unwrap();
            }
        }
        [image(&*journal.files[0]), image(&*journal.files[1])]
    }

    /// redb's backend in memory does not grow by writing.
    fn grown(file: Box<dyn StorageBackend>) -> Box<dyn StorageBackend> {
        file.set_len(1000).unwrap();
        file
    }

    #[test]
    fn frames_come_back_in_order_and_stale_generations_do_not() {
        let images = sample();
        let recovered = recover(&from_images(&images), SALT, 5).unwrap();
        let firsts: Vec<[u8; 2]> =
            recovered.payloads.iter().map(|payload| [payload[0], payload[1]]).collect();
        assert_eq!(firsts, [[5, 0], [5, 1], [5, 2], [6, 0], [6, 1], [6, 2]]);
        assert_eq!(recovered.next_generation, 7);
        assert_eq!(recover(&from_images(&images), SALT, 6).unwrap().payloads.len(), 3);
        let none = recover(&from_images(&images), SALT, 7).unwrap();
        assert_eq!((none.payloads.len(), none.next_generation), (0, 7));
        assert!(matches!(recover(&from_images(&images), SALT, 4), Err(JournalError::Damaged(_))));
        assert!(recover(&from_images(&images), SALT + 1, 5).unwrap().payloads.is_empty());
    }

    #[test]
    fn an_incomplete_last_frame_is_dropped_and_other_damage_is_refused() {
        let images = sample();
        let frame = HEADER + 100;
        for at in 0..3 * frame {
            let mut damaged = images.clone();
            damaged[0][at] ^= 0x10;
            match recover(&from_images(&damaged), SALT, 5) {
                Ok(recovered) => {
                    assert!(at >= 2 * frame, "damage at {at} goes unnoticed");
                    assert_eq!(recovered.payloads.len(), 5);
                }
                Err(JournalError::Damaged(_)) => assert!(at < 2 * frame, "damage at {at} is refused"),
                Err(JournalError::Io(error)) => panic!("{error}"),
            }
        }
    }
}
