package rulebook

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// held is what a configuration has in force, with which numbers.
type held struct {
	on      map[unit]bool
	numbers map[account]accountNumber
}

// held returns the numbers that the next configuration may use while a directory does not answer.
// It has only those of rules in force, so that no rule comes into force by an old answer.
func (b *Book) held() held {
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

// numbersInForce returns the numbers of all users and groups that something in force names.
func (b *Book) numbersInForce() map[account]accountNumber {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.numbersOf(b.on, b.known)
}

func (b *Book) numbersOf(on map[unit]bool, known map[account]accountNumber) map[account]accountNumber {
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

// Number is the uid or gid that rules and administrators in force have by the name of a user or
// group.
type Number struct {
	Kind string // "user" or "group"
	Name string
	ID   uint32

	// Confirmed says that a look of this book has found the number. Else it is from the
	// configuration before; Reason is what the last look was told, and Until is when the number
	// counts no more, zero while the directory does not answer at all.
	Confirmed bool
	Reason    error
	Until     time.Time
}

// Numbers lists the numbers in force, by kind and name.
func (b *Book) Numbers() []Number {
	var list []Number
	for a, n := range b.numbersInForce() {
		list = append(list, Number{
			Kind: a.kind(), Name: a.name, ID: n.id,
			Confirmed: n.confirmed(), Reason: n.why, Until: n.until(),
		})
	}
	slices.SortFunc(list, func(x, y Number) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Name, y.Name))
	})
	return list
}

// Settled reports whether there is nothing to look up again: all rules are in force with numbers
// that are confirmed, and all administrators are known.
func (b *Book) Settled() bool {
	unconfirmed := func(n accountNumber) bool { return !n.confirmed() }
	return b.NotInForce() == nil && !slices.ContainsFunc(slices.Collect(maps.Values(b.numbersInForce())), unconfirmed)
}

// UntilNextLook returns a pause, shortened to the time until a number counts no more.
func (b *Book) UntilNextLook(pause time.Duration) time.Duration {
	for _, n := range b.numbersInForce() {
		if !n.confirmed() && !n.gone.IsZero() {
			pause = min(pause, max(n.until().Sub(b.now()), time.Second))
		}
	}
	return pause
}
