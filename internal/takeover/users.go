package takeover

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/config"
	known "github.com/keyagent/keyagent/internal/accounts"
)

// Bounds of /etc/subuid.
const (
	maxSubuidBytes = 1 << 20
	maxRanges      = 4096 // of uids, in a plan
)

// Accounts finds users of this machine by name. Its errors wrap [known.ErrUnknown] for a name that
// nobody has.
type Accounts interface {
	User(ctx context.Context, name string) (uid uint32, err error)
}

// Range is a range of uids, both ends included.
type Range struct{ First, Last uint32 }

// String is the range as nft(8) writes it.
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.FormatUint(uint64(r.First), 10)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Plan is what the firewall must do.
type Plan struct {
	Port    uint16  // of the agent on 127.0.0.1, to which requests are redirected
	Users   []Range // whose; in order, without gaps of nothing between two, never 0
	Forward bool    // whether packets forwarded to IMDS are refused, too
}

// Takes reports whether a uid is one of those whose traffic is taken over.
func (p Plan) Takes(uid uint32) bool {
	return slices.ContainsFunc(p.Users, func(r Range) bool { return r.First <= uid && uid <= r.Last })
}

// Resolve looks the users of a configuration up, with their subordinate uids as subuid(5) has them;
// subuid nil means that there are none. The users in exempt must not be among them. Errors are
// worded for the operator.
func Resolve(ctx context.Context, t *config.Takeover, accounts Accounts, subuid io.Reader, exempt ...uint32) (Plan, error) {
	p := Plan{Port: t.Port(), Forward: t.RefuseForwarded}
	var problems []error
	for _, user := range t.Users {
		uid, err := uidOf(ctx, accounts, user)
		if err == nil {
			err = mayBeTaken(uid, exempt)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("endpoints.takeover.users: %q: %w", user, err))
			continue
		}
		p.Users = append(p.Users, Range{uid, uid})
	}
	subordinate, err := readSubuid(ctx, subuid, accounts, p)
	if err != nil {
		problems = append(problems, err)
	}
	for _, r := range subordinate {
		for _, uid := range append([]uint32{0}, exempt...) {
			if r.First <= uid && uid <= r.Last {
				problems = append(problems, fmt.Errorf("/etc/subuid: the range %s of a user that is taken over has uid %d, which must not be taken over: correct that file", r, uid))
			}
		}
	}
	p.Users = merged(append(p.Users, subordinate...))
	if len(p.Users) > maxRanges {
		problems = append(problems, fmt.Errorf("endpoints.takeover.users: %d ranges of uids are more than %d", len(p.Users), maxRanges))
	}
	return p, errors.Join(problems...)
}

// uidOf takes a number as it is and looks a name up.
func uidOf(ctx context.Context, accounts Accounts, user string) (uint32, error) {
	uid, err := strconv.ParseUint(user, 10, 32)
	switch {
	case err != nil:
		return accounts.User(ctx, user)
	case uid == math.MaxUint32: // (uid_t)-1
		return 0, errors.New("that is not the number of a user")
	}
	return uint32(uid), nil
}

func mayBeTaken(uid uint32, exempt []uint32) error {
	if uid == 0 {
		return errors.New("that is root, who cannot be taken over")
	}
	if slices.Contains(exempt, uid) {
		return fmt.Errorf("uid %d is that of the agent itself, which needs IMDS: run the agent as a user of its own", uid)
	}
	return nil
}

// readSubuid returns the ranges of the users of a plan. A program in a user namespace of theirs has
// one of these uids, and its sockets can be those of this machine.
func readSubuid(ctx context.Context, file io.Reader, accounts Accounts, p Plan) ([]Range, error) {
	if file == nil {
		return nil, nil
	}
	var found []Range
	lines := bufio.NewScanner(io.LimitReader(file, maxSubuidBytes+1))
	read := 0
	for lines.Scan() {
		if read += len(lines.Bytes()) + 1; read > maxSubuidBytes {
			return nil, fmt.Errorf("/etc/subuid: more than %d bytes", maxSubuidBytes)
		}
		owner, rest, _ := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		uid, err := uidOf(ctx, accounts, owner)
		if owner == "" || errors.Is(err, known.ErrUnknown) || err == nil && !p.Takes(uid) {
			continue // a range of nobody, or of somebody else
		}
		r, malformed := parseSubuid(rest)
		if err := cmp.Or(err, malformed); err != nil {
			return nil, fmt.Errorf("/etc/subuid: the line of %q: %w", owner, err)
		}
		found = append(found, r)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("/etc/subuid: %w", err)
	}
	return found, nil
}

// parseSubuid reads FIRST:COUNT. Text that cannot be read is an error: uids that are left out would
// not be taken over.
func parseSubuid(text string) (Range, error) {
	first, count, _ := strings.Cut(text, ":")
	from, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return Range{}, errors.New("the first uid is no number")
	}
	n, err := strconv.ParseUint(count, 10, 32)
	if err != nil || n == 0 || from+n > math.MaxUint32 {
		return Range{}, errors.New("the count is no number of uids")
	}
	return Range{uint32(from), uint32(from + n - 1)}, nil
}

// merged puts ranges in order and joins those that meet: nft refuses ranges that overlap.
func merged(ranges []Range) []Range {
	slices.SortFunc(ranges, func(a, b Range) int { return cmp.Compare(a.First, b.First) })
	var all []Range
	for _, r := range ranges {
		if last := len(all) - 1; last >= 0 && uint64(r.First) <= uint64(all[last].Last)+1 {
			all[last].Last = max(all[last].Last, r.Last)
			continue
		}
		all = append(all, r)
	}
	return all
}
