// Package rulebook turns the configured rules, which name users and groups, into the policy that
// the agent applies, which has their numbers.
//
// Names may be unknown for a while: a directory service can start after the agent, or be down. So a
// [Book] looks names up again and again ([Book.Look]), within a bounded time, and says which rules
// are not in force and why ([Book.NotInForce]).
//
// What always holds:
//   - A rule is in force as a whole or not at all. An administrator who is not found is left out
//     alone.
//   - A user or group that was found keeps its number until the configuration changes, and beyond
//     that while the directory does not answer.
//   - Names for which there was no time are looked up first the next time.
package rulebook
