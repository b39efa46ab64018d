//! What was run, where, and how to run it again.

use maud::{Markup, html};

use super::{Run, facts};

/// The sections.
pub(super) fn render(run: &Run<'_>) -> Markup {
    let summary = run.summary;
    let build = &summary.environment.build;
    html! {
        section aria-labelledby="workload" {
            h2 #workload { "Workload" }
            (facts::list(&summary.workload))
        }
        section aria-labelledby="environment" {
            h2 #environment { "Environment" }
            (facts::list(&summary.environment))
        }
        section aria-labelledby="repeat" {
            h2 #repeat { "Repeat it" }
            @if build.commit.is_empty() {
                p { "The commit is unknown: this program was built outside of a checkout." }
            } @else {
                p {
                    "Built from commit " code { (build.commit) }
                    @if build.dirty {
                        strong.bad { " with changes that were not committed: nobody else can build the same." }
                    } @else { "." }
                }
            }
            pre { code { (command_line(&summary.argv)) } }
            @if !summary.merged.is_empty() {
                h3 { "The generators that were merged" }
                @for part in &summary.merged {
                    p { (part.name) ": " (part.verdict.to_string()) ", on " (part.environment.host) ", " (part.started) }
                    pre { code { (command_line(&part.argv)) } }
                }
            }
            p.quiet {
                "The seed makes keys, recipients and schedules; the kernel, the machine and its other tenants make the \
                 rest. Compare several runs, not two."
            }
        }
    }
}

/// A command line that a shell reads as these words.
pub(super) fn command_line(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn a_shell_reads_the_words_as_they_were() {
        let words = ["loadgen", "--slo", "message.p99<5ms,loss=0", "--relay-args", "it's", ""].map(str::to_owned);
        assert_eq!(command_line(&words), r"loadgen --slo 'message.p99<5ms,loss=0' --relay-args 'it'\''s' ''");
    }
}
