// Package setup proposes a configuration: what was found on the machine and what the operator chose
// go in, and out come the decisions with their reasons, the text of a configuration, and what is to
// be done besides.
//
//	Facts + Choices → Propose → Decisions, Text (which config.Parse takes), Steps
//
// It reads and writes nothing and asks nobody: package inspect looks, and the program asks and
// writes.
//
// What always holds:
//   - The text is a configuration that [config.Parse] accepts, or there is none.
//   - The same facts and choices give the same text, so that a machine that is set up again by a
//     script is left as it is.
//   - Nothing weaker than the platform allows is proposed unless the operator chose it: where the
//     host has no binding certificates, the proposal is an error that says what the choice is.
//   - Who may have which tokens is the operator's choice alone. There is no default for it.
//
// Facts are what services on the machine say of themselves. They decide what is proposed to a
// person; what the agent accepts is decided by the agent, at each request.
package setup
