//! Lines of their scheduler as lines of cron.

const FIELDS: &str =
    "six or seven fields, seconds first, of which seconds are 0 and years are *, or five";

/// Their line (the crate `cron`: seconds first, a year at the end, Sunday is 1) as five fields (Sunday is 0), with a note where it is
/// another one.
pub(super) fn schedule(line: &str) -> Result<(String, Option<&'static str>), &'static str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let five = match fields[..] {
        [_, _, _, _, _] => return Ok((fields.join(" "), None)),
        ["0", minute, hour, day, month, weekday]
        | ["0", minute, hour, day, month, weekday, "*"] => [minute, hour, day, month, weekday],
        _ => return Err(FIELDS),
    };
    let [minute, hour, day, month, weekday] = five;
    if ![day, weekday]
        .iter()
        .any(|field| matches!(*field, "*" | "?"))
    {
        return Err("a day of the month or of the week: there both must fit, here one is enough");
    }
    let weekday = weekdays(weekday)?;
    // `?` is Quartz's word for any.
    let any = |field: &str| field.replace('?', "*");
    let line = format!("{minute} {hour} {} {month} {}", any(day), any(&weekday));
    let note = "five fields; a Sunday, which is 1 there, is 0 here";
    let has_number = weekday.contains(|c: char| c.is_ascii_digit());
    Ok((line, has_number.then_some(note)))
}

/// Weekdays counted from 0; a step is no weekday.
fn weekdays(field: &str) -> Result<String, &'static str> {
    let day = |text: &str| match text.parse::<u8>() {
        Ok(number @ 1..=7) => Ok((number - 1).to_string()),
        Ok(_) => Err("weekdays from 1 (Sunday) to 7"),
        Err(_) => Ok(text.to_owned()),
    };
    let part = |part: &str| {
        let (days, step) = match part.split_once('/') {
            Some((days, step)) => (days, format!("/{step}")),
            None => (part, String::new()),
        };
        let days: Result<Vec<String>, _> = days.split('-').map(day).collect();
        Ok::<_, &'static str>(format!("{}{step}", days?.join("-")))
    };
    let parts: Result<Vec<String>, _> = field.split(',').map(part).collect();
    Ok(parts?.join(","))
}
