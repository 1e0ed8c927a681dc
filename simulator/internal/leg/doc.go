// Package leg wraps each operation of the simulated services in what they have in common: faults
// act on it, and the journal records it.
package leg
