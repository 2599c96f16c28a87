//! The journal's bytes: what is where in the file, and how a torn or flipped record is told from a whole one.
//!
//! ```text
//! file   = header page | place 0 | place 1 | ...         each place 80 KiB
//! place  = mark page (4 KiB) | answer record
//! record = magic (4) | CRC32 of magic and fields (4) | fields, little-endian, of fixed size
//! answer = record | sealed body, whose length is among the record's fields
//! ```
//! The sealed body opens only for its connection, grant and generation ([`Place`]) and begins with its
//! sequence, attempt and time: the head of one answer never goes with the body of another.

use crate::seal::{Field, OVERHEAD_BYTES, Place, Sealer};
use std::time::Duration;
use tokenkeep_core::Timestamp;
use tokenkeep_core::model::{AttemptNumber, AttemptRef, ConnectionId, Generation, GrantNumber};
use tokenkeep_core::oauth::RawAnswer;
use zeroize::Zeroizing;

/// The header, and each mark, have a page of their own.
pub(super) const PAGE_BYTES: u64 = 4096;
/// One place: a mark page and an answer of at most 64 KiB with all that goes around it.
pub(super) const SLOT_BYTES: u64 = 80 * 1024;
/// The longest `Content-Type` that is kept; the rest is cut.
const CONTENT_TYPE_BYTES_MAX: usize = 1024;

const FRAME_BYTES: usize = 8;
const REF_BYTES: usize = 8 + 4 + 8 + 8;
/// Length of the file's header record.
pub(super) const HEADER_BYTES: usize = FRAME_BYTES + 4 + 4 + 8 + 16 + 8 + 8;
/// Length of a mark.
pub(super) const MARK_BYTES: usize = FRAME_BYTES + 8 + REF_BYTES + 8;
/// Length of an answer's head.
pub(super) const HEAD_BYTES: usize = FRAME_BYTES + 8 + REF_BYTES + 8 + 4;
/// The longest sealed body.
pub(super) const SEALED_BYTES_MAX: usize = (SLOT_BYTES - PAGE_BYTES) as usize - HEAD_BYTES;
const PAYLOAD_HEAD_BYTES: usize = 8 + 8 + 8 + 2 + 8 + 2;

const HEADER_MAGIC: [u8; 4] = *b"TKJH";
const SENDING_MAGIC: [u8; 4] = *b"TKJS";
const RETIRED_MAGIC: [u8; 4] = *b"TKJR";
const ANSWER_MAGIC: [u8; 4] = *b"TKJA";
/// The layout that this program writes.
pub(super) const VERSION: u32 = 1;
const NO_RETRY_AFTER: u64 = u64::MAX;
const NO_CONTENT_TYPE: u16 = u16::MAX;

const _: () = assert!(
    SEALED_BYTES_MAX
        >= OVERHEAD_BYTES + PAYLOAD_HEAD_BYTES + CONTENT_TYPE_BYTES_MAX + crate::endpoint::ANSWER_BYTES_MAX,
    "every answer that an endpoint may return fits a place"
);

/// Where place `index` starts in the file; its mark is there.
pub(super) fn mark_offset(index: u32) -> u64 {
    PAGE_BYTES + u64::from(index) * SLOT_BYTES
}

/// Where the answer of place `index` is.
pub(super) fn answer_offset(index: u32) -> u64 {
    mark_offset(index) + PAGE_BYTES
}

/// The length of a file with this many places.
pub(super) fn file_bytes(places: u32) -> u64 {
    mark_offset(places)
}

/// What the file says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// How many places follow.
    pub places: u32,
    /// The store that this journal belongs to.
    pub store_id: u64,
    /// Which master key seals it.
    pub check_value: [u8; 16],
    /// Sequence numbers up to this one were given out before this file was laid out.
    pub sequence_floor: u64,
    /// The highest answer before this file was laid out.
    pub answer_floor: u64,
}

/// Why a header is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderFault {
    /// It does not begin as a journal does.
    NotAJournal,
    /// Its check sum is wrong.
    Damaged,
    /// Written by a later program.
    Version(u32),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(HEADER_BYTES - FRAME_BYTES);
        fields.extend(VERSION.to_le_bytes());
        fields.extend(self.places.to_le_bytes());
        fields.extend(self.store_id.to_le_bytes());
        fields.extend(self.check_value);
        fields.extend(self.sequence_floor.to_le_bytes());
        fields.extend(self.answer_floor.to_le_bytes());
        framed(HEADER_MAGIC, &fields)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        if !bytes.starts_with(&HEADER_MAGIC) {
            return Err(HeaderFault::NotAJournal);
        }
        let mut fields = unframed(HEADER_MAGIC, bytes).ok_or(HeaderFault::Damaged)?;
        let version = fields.u32().ok_or(HeaderFault::Damaged)?;
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        Self::fields(&mut fields).ok_or(HeaderFault::Damaged)
    }

    fn fields(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            places: fields.u32()?,
            store_id: fields.u64()?,
            check_value: fields.take()?,
            sequence_floor: fields.u64()?,
            answer_floor: fields.u64()?,
        })
    }
}

/// What a place's first page says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    /// Nothing was ever marked here.
    Blank,
    /// An attempt was about to be sent.
    Sending(Sent),
    /// All up to this sequence number is done with.
    Retired(u64),
    /// Something that was never written as a mark.
    Damaged,
}

/// One attempt, its number in the journal, and when it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    /// Its number in the journal.
    pub sequence: u64,
    /// The attempt.
    pub attempt: AttemptRef,
    /// t0.
    pub at: Timestamp,
}

impl Sent {
    fn encode(&self, fields: &mut Vec<u8>) {
        fields.extend(self.sequence.to_le_bytes());
        fields.extend(self.attempt.connection.0.to_le_bytes());
        fields.extend(self.attempt.grant.0.to_le_bytes());
        fields.extend(self.attempt.generation.0.to_le_bytes());
        fields.extend(self.attempt.attempt.0.to_le_bytes());
        fields.extend(self.at.as_millis().to_le_bytes());
    }

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let sequence = fields.u64()?;
        let attempt = AttemptRef {
            connection: ConnectionId(fields.i64()?),
            grant: GrantNumber(fields.u32()?),
            generation: Generation(fields.u64()?),
            attempt: AttemptNumber(fields.u64()?),
        };
        Some(Self { sequence, attempt, at: Timestamp::from_millis(fields.i64()?) })
    }

    fn place(&self) -> Place {
        let AttemptRef { connection, grant, generation, .. } = self.attempt;
        Place { connection, grant, generation, field: Field::Answer }
    }
}

impl Mark {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(MARK_BYTES - FRAME_BYTES);
        let magic = match self {
            Self::Sending(sent) => {
                sent.encode(&mut fields);
                SENDING_MAGIC
            }
            Self::Retired(sequence) => {
                fields.extend(sequence.to_le_bytes());
                RETIRED_MAGIC
            }
            Self::Blank | Self::Damaged => return vec![0; MARK_BYTES],
        };
        fields.resize(MARK_BYTES - FRAME_BYTES, 0);
        framed(magic, &fields)
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        if bytes.iter().all(|&byte| byte == 0) {
            return Self::Blank;
        }
        let sending =
            unframed(SENDING_MAGIC, bytes).and_then(|mut fields| Sent::decode(&mut fields)).map(Self::Sending);
        let retired = || unframed(RETIRED_MAGIC, bytes).and_then(|mut fields| fields.u64()).map(Self::Retired);
        sending.or_else(retired).unwrap_or(Self::Damaged)
    }

    /// The sequence number up to which this place's records are dead.
    pub(super) fn dead_up_to(&self) -> u64 {
        match self {
            Self::Sending(sent) => sent.sequence.saturating_sub(1),
            Self::Retired(sequence) => *sequence,
            Self::Blank | Self::Damaged => 0,
        }
    }
}

/// The head of an answer: whose it is, and how long its sealed body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AnswerHead {
    /// Whose answer.
    pub sent: Sent,
    /// Bytes of the sealed body, at most [`SEALED_BYTES_MAX`].
    pub sealed_bytes: usize,
}

impl AnswerHead {
    /// Reads a head; `None` when there is no whole one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = unframed(ANSWER_MAGIC, bytes)?;
        let sent = Sent::decode(&mut fields)?;
        let sealed_bytes = usize::try_from(fields.u32()?).ok().filter(|&length| length <= SEALED_BYTES_MAX)?;
        Some(Self { sent, sealed_bytes })
    }

    /// Opens the body that belongs to this head; `None` when it is torn, flipped, or another's.
    pub(super) fn open(&self, sealer: &Sealer, sealed: &[u8]) -> Option<RawAnswer> {
        if sealed.len() != self.sealed_bytes {
            return None;
        }
        let payload = sealer.open(&self.sent.place(), sealed).ok()?;
        let mut fields = Fields(&payload);
        let same = fields.u64()? == self.sent.sequence
            && fields.u64()? == self.sent.attempt.attempt.0
            && fields.i64()? == self.sent.at.as_millis();
        if same { read_answer(fields) } else { None }
    }
}

/// The bytes of an answer record: head and sealed body. `None` when the answer is too large for a place.
pub(super) fn answer_record(sealer: &Sealer, sent: &Sent, answer: &RawAnswer) -> Option<Vec<u8>> {
    let sealed = sealer.seal(&sent.place(), &payload(sent, answer));
    if sealed.len() > SEALED_BYTES_MAX {
        return None;
    }
    let mut fields = Vec::with_capacity(HEAD_BYTES - FRAME_BYTES);
    sent.encode(&mut fields);
    fields.extend(u32::try_from(sealed.len()).ok()?.to_le_bytes());
    let mut record = framed(ANSWER_MAGIC, &fields);
    record.extend(sealed);
    Some(record)
}

fn payload(sent: &Sent, answer: &RawAnswer) -> Zeroizing<Vec<u8>> {
    let content_type =
        answer.content_type.as_deref().map(|text| &text[..text.floor_char_boundary(CONTENT_TYPE_BYTES_MAX)]);
    let bytes = PAYLOAD_HEAD_BYTES + content_type.map_or(0, str::len) + answer.body.len();
    // Its whole capacity at once: a growing vector would leave unwiped copies of the tokens behind.
    let mut payload = Zeroizing::new(Vec::with_capacity(bytes));
    payload.extend(sent.sequence.to_le_bytes());
    payload.extend(sent.attempt.attempt.0.to_le_bytes());
    payload.extend(sent.at.as_millis().to_le_bytes());
    payload.extend(answer.status.to_le_bytes());
    let retry_after =
        answer.retry_after.map_or(NO_RETRY_AFTER, |span| u64::try_from(span.as_millis()).unwrap_or(NO_RETRY_AFTER - 1));
    payload.extend(retry_after.to_le_bytes());
    let length = content_type.map_or(NO_CONTENT_TYPE, |text| u16::try_from(text.len()).unwrap_or(NO_CONTENT_TYPE));
    payload.extend(length.to_le_bytes());
    payload.extend(content_type.unwrap_or_default().as_bytes());
    payload.extend(answer.body.iter());
    payload
}

fn read_answer(mut fields: Fields<'_>) -> Option<RawAnswer> {
    let status = u16::from_le_bytes(fields.take()?);
    let retry_after = Some(fields.u64()?).filter(|&millis| millis != NO_RETRY_AFTER).map(Duration::from_millis);
    let content_type = match u16::from_le_bytes(fields.take()?) {
        NO_CONTENT_TYPE => None,
        length => Some(std::str::from_utf8(fields.bytes(usize::from(length))?).ok()?.to_owned()),
    };
    Some(RawAnswer { status, content_type, retry_after, body: Zeroizing::new(fields.0.to_vec()) })
}

fn framed(magic: [u8; 4], fields: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(FRAME_BYTES + fields.len());
    record.extend(magic);
    record.extend(check_sum(magic, fields).to_le_bytes());
    record.extend(fields);
    record
}

fn unframed(magic: [u8; 4], bytes: &[u8]) -> Option<Fields<'_>> {
    let mut record = Fields(bytes);
    let whole = record.take()? == magic && record.u32()? == check_sum(magic, record.0);
    whole.then_some(record)
}

fn check_sum(magic: [u8; 4], fields: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&magic);
    hasher.update(fields);
    hasher.finalize()
}

/// Takes little-endian fields from the front of some bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*front)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }
}
