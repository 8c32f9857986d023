//! Text: the standard library's functions, and cel-go's extension `strings` as of version 2.

use super::{Args, Outcome, int, no_overload, pattern, text};
use crate::error::EvalError;
use crate::value::{Text, Value, chars, literal};

pub(super) fn contains<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(text(&args[0])?.contains(text(&args[1])?)))
}

pub(super) fn starts_with<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(text(&args[0])?.starts_with(text(&args[1])?)))
}

pub(super) fn ends_with<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(text(&args[0])?.ends_with(text(&args[1])?)))
}

pub(super) fn matches<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::Bool(pattern::compile(text(&args[1])?)?.is_match(text(&args[0])?)))
}

fn illegal(problem: EvalError) -> EvalError {
    EvalError::new(format!("Illegal regex: {problem}"))
}

pub(super) fn find<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let regex = pattern::compile(text(&args[1])?).map_err(illegal)?;
    match &args[0] {
        Value::String(subject) => Ok(find_with(&regex, subject)),
        _ => Err(no_overload()),
    }
}

/// The first match, or nothing.
pub(crate) fn find_with<'a>(regex: &regex::Regex, subject: &Text<'a>) -> Value<'a> {
    let (start, end) = regex.find(subject.as_str()).map_or((0, 0), |found| (found.start(), found.end()));
    Value::String(subject.piece(start, end))
}

pub(super) fn find_all<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let regex = pattern::compile(text(&args[1])?).map_err(illegal)?;
    let limit = args.get(2).map(int).transpose()?;
    match &args[0] {
        Value::String(subject) => Ok(find_all_with(&regex, subject, limit)),
        _ => Err(no_overload()),
    }
}

/// All matches, or at most `limit`.
pub(crate) fn find_all_with<'a>(regex: &regex::Regex, subject: &Text<'a>, limit: Option<i64>) -> Value<'a> {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let found = regex.find_iter(subject.as_str()).take(limit);
    Value::list(found.map(|found| Value::String(subject.piece(found.start(), found.end()))).collect())
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// The byte offset of a character, or of the end.
fn offset(subject: &str, index: i64) -> Result<usize, EvalError> {
    let wanted = usize::try_from(index).map_err(|_| out_of_range(index))?;
    if subject.is_ascii() {
        return if wanted <= subject.len() { Ok(wanted) } else { Err(out_of_range(index)) };
    }
    let offsets = subject.char_indices().map(|(at, _)| at).chain([subject.len()]);
    offsets.into_iter().nth(wanted).ok_or_else(|| out_of_range(index))
}

/// A piece of a text, by bytes.
fn piece<'a>(subject: &Value<'a>, start: usize, end: usize) -> Outcome<'a> {
    match subject {
        Value::String(text) => Ok(Value::String(text.piece(start, end))),
        _ => Err(no_overload()),
    }
}

pub(super) fn char_at<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let subject = text(&args[0])?;
    let start = offset(subject, int(&args[1])?)?;
    let end = subject[start..].chars().next().map_or(start, |c| start + c.len_utf8());
    piece(&args[0], start, end)
}

pub(super) fn index_of<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (subject, wanted) = (text(&args[0])?, text(&args[1])?);
    let from = args.get(2).map(int).transpose()?.unwrap_or(0);
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let Ok(start) = offset(subject, from) else { return Ok(Value::Int(-1)) };
    Ok(Value::Int(match subject[start..].find(wanted) {
        Some(at) => chars(&subject[..start + at]) as i64,
        None => -1,
    }))
}

pub(super) fn last_index_of<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (subject, wanted) = (text(&args[0])?, text(&args[1])?);
    let length = chars(subject) as i64;
    let from = match args.get(2).map(int).transpose()? {
        None if wanted.is_empty() => return Ok(Value::Int(length)),
        None if subject.len() < wanted.len() => return Ok(Value::Int(-1)),
        None => length - 1,
        Some(from) if wanted.is_empty() => return Ok(Value::Int(from)),
        Some(from) if from < 0 => return Err(out_of_range(from)),
        Some(from) if from >= length => return Ok(Value::Int(-1)),
        Some(from) => from,
    };
    let from = from.min(length - chars(wanted) as i64);
    if from < 0 {
        return Ok(Value::Int(-1));
    }
    let end = (offset(subject, from)? + wanted.len()).min(subject.len());
    let end = (end..=subject.len()).find(|end| subject.is_char_boundary(*end)).unwrap_or(subject.len());
    Ok(Value::Int(match subject[..end].rfind(wanted) {
        Some(at) => chars(&subject[..at]) as i64,
        None => -1,
    }))
}

pub(super) fn lower_ascii<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(text(&args[0])?.to_ascii_lowercase()))
}

pub(super) fn upper_ascii<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(text(&args[0])?.to_ascii_uppercase()))
}

pub(super) fn trim<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let subject = text(&args[0])?;
    let start = subject.len() - subject.trim_start().len();
    let end = start + subject.trim().len();
    piece(&args[0], start, end)
}

/// Results longer than a request can be are refused: repeated replacement could grow without bound.
const MAX_LENGTH: usize = 32 << 20;

pub(super) fn replace<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (subject, old, new) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let limit = args.get(3).map(int).transpose()?.unwrap_or(-1);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let places = if old.is_empty() { chars(subject) + 1 } else { subject.matches(old).count() };
    let length = new.len().saturating_mul(places.min(limit)).saturating_add(subject.len());
    if length > MAX_LENGTH {
        return Err(EvalError::new("result of replace is too long"));
    }
    Ok(Value::text(if limit == usize::MAX {
        subject.replace(old, new)
    } else {
        subject.replacen(old, new, limit)
    }))
}

pub(super) fn split<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let (subject, separator) = (text(&args[0])?, text(&args[1])?);
    let limit = args.get(2).map(int).transpose()?.unwrap_or(-1);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let Value::String(whole) = &args[0] else { return Err(no_overload()) };
    let mut pieces = Vec::new();
    let mut start = 0;
    while pieces.len() + 1 < limit {
        let rest = &subject[start..];
        let (end, next) = if separator.is_empty() {
            match rest.chars().next() {
                Some(c) if rest.len() > c.len_utf8() => (start + c.len_utf8(), start + c.len_utf8()),
                _ => break,
            }
        } else {
            match rest.find(separator) {
                Some(at) => (start + at, start + at + separator.len()),
                None => break,
            }
        };
        pieces.push(Value::String(whole.piece(start, end)));
        start = next;
    }
    if !(separator.is_empty() && subject.is_empty()) {
        pieces.push(Value::String(whole.piece(start, subject.len())));
    }
    Ok(Value::list(pieces))
}

pub(super) fn substring<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let subject = text(&args[0])?;
    let from = int(&args[1])?;
    let to = args.get(2).map(int).transpose()?;
    if let Some(to) = to
        && from > to
    {
        return Err(EvalError::new(format!("invalid substring range. start: {from}, end: {to}")));
    }
    let start = offset(subject, from)?;
    let end = match to {
        Some(to) => offset(subject, to)?,
        None => subject.len(),
    };
    piece(&args[0], start, end)
}

pub(super) fn join<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let Value::List(list) = &args[0] else { return Err(no_overload()) };
    let separator = args.get(1).map(text).transpose()?.unwrap_or("");
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            joined.push_str(separator);
        }
        let item = item?;
        match item.as_str() {
            Some(piece) => joined.push_str(piece),
            None => return Err(EvalError::new(format!("join: invalid input: {}", literal(&item)))),
        }
    }
    Ok(Value::text(joined))
}

pub(super) fn quote<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    let mut quoted = String::from("\"");
    for c in text(&args[0])?.chars() {
        match c {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(Value::text(quoted))
}

pub(super) fn escape_key<'a>(args: Args<'_, 'a>) -> Outcome<'a> {
    Ok(Value::text(text(&args[0])?.replace('~', "~0").replace('/', "~1")))
}
