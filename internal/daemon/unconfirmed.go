package daemon

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// held is what a configuration has in force, with which numbers.
type held struct {
	on      map[unit]bool
	numbers map[account]accountNumber
}

// held returns what the next configuration may go on with where a directory does not tell. What was not in force is not in it, so that
// nothing comes into force by an answer of long ago.
func (b *ruleBook) held() held {
	h := held{numbers: b.numbersInForce()}
	for a, n := range h.numbers {
		n.look, n.why = 0, nil
		h.numbers[a] = n
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h.on = b.on
	return h
}

// numbersInForce returns the numbers of everybody whom something in force names.
func (b *ruleBook) numbersInForce() map[account]accountNumber {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.numbersOf(b.on, b.known)
}

func (b *ruleBook) numbersOf(on map[unit]bool, known map[account]accountNumber) map[account]accountNumber {
	numbers := map[account]accountNumber{}
	for u, named := range b.units() {
		for _, a := range named {
			if on[u] {
				numbers[a] = known[a]
			}
		}
	}
	return numbers
}

// settled reports whether there is nobody whom another look would be for.
func (b *ruleBook) settled() bool {
	return b.notInForce() == nil && len(unconfirmed(b.numbersInForce())) == 0
}

// unconfirmed lists the numbers that are not confirmed, in the order of their names.
func unconfirmed(numbers map[account]accountNumber) []wire.UnconfirmedAccount {
	var list []wire.UnconfirmedAccount
	for _, a := range inOrder(numbers) {
		n := numbers[a]
		if n.confirmed() {
			continue
		}
		described := wire.UnconfirmedAccount{Kind: a.kind(), Name: a.name, Number: n.id, Reason: text(n.why)}
		if !n.gone.IsZero() {
			until := n.gone.Add(keptFor)
			described.Until = &until
		}
		list = append(list, described)
	}
	return list
}

func inOrder(numbers map[account]accountNumber) []account {
	return slices.SortedFunc(maps.Keys(numbers), func(x, y account) int {
		return cmp.Or(cmp.Compare(x.kind(), y.kind()), cmp.Compare(x.name, y.name))
	})
}

// untilNextLook is a pause, or what is left until a number counts no more.
func (b *ruleBook) untilNextLook(pause time.Duration) time.Duration {
	for _, n := range b.numbersInForce() {
		if !n.confirmed() && !n.gone.IsZero() {
			pause = min(pause, max(n.gone.Add(keptFor).Sub(b.now()), time.Second))
		}
	}
	return pause
}

// tellNumbers logs what is new of the numbers in force; before is nil for a configuration that comes into force.
func (d *Daemon) tellNumbers(before, after map[account]accountNumber) {
	for _, a := range inOrder(after) {
		n := after[a]
		had, was := before[a]
		log := d.opts.Logger.With(a.kind(), a.name, "number", n.id)
		switch {
		case !n.confirmed() && n.gone.IsZero() && !was:
			log.Warn("a number is from the configuration before: the directory did not answer. It is asked until it confirms the number", "cause", n.why)
		case !n.confirmed() && !n.gone.IsZero() && (!was || had.gone.IsZero()):
			log.Warn("a number is from the configuration before: the directory does not have the name, or is not running. It is asked until it confirms the number, "+
				"which counts no more at the time that is said here", "until", n.gone.Add(keptFor), "cause", n.why)
		case was && had.id != n.id:
			log.Warn("a user or group has another number than before; what names it goes by that", "before", had.id)
		case was && !had.confirmed() && n.confirmed():
			log.Info("a number of the configuration before was confirmed")
		}
	}
	for _, a := range inOrder(before) {
		if _, still := after[a]; !still && !before[a].confirmed() {
			d.opts.Logger.Error("a number of the configuration before was not confirmed, and counts no more", a.kind(), a.name, "number", before[a].id)
		}
	}
}
