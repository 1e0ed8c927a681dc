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
//   - A rule comes into force with numbers that one look has found for all its users and groups.
//   - A rule in force keeps the numbers that it has. After a change of the configuration they are
//     unconfirmed until a look finds them again ([Book.Numbers]): they count while the directory does
//     not answer, and for ten minutes after it first said that it does not have the name.
//   - Names for which there was no time are looked up first the next time.
package rulebook
