package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxListingBytes limits how much of nft's output is read: hosts of containers have thousands of
// rules.
const maxListingBytes = 32 << 20

// Listing is a ruleset as nft(8) lists it in JSON (libnftables-json(5)).
type Listing struct {
	tables []listedTable
	chains []listedChain
	sets   []listedSet
	rules  map[inChain][]listedRule // in their order
	others []string                 // kinds of objects in our table that do not belong there
}

// inChain is where rules are.
type inChain struct {
	place
	name string
}

// place is where in a ruleset something is.
type place struct {
	Family string `json:"family"`
	Table  string `json:"table"`
}

func (p place) ours() bool { return p == place{"inet", Table} }

type listedTable struct {
	Family string          `json:"family"`
	Name   string          `json:"name"`
	Flags  json.RawMessage `json:"flags"`
}

type listedChain struct {
	place
	Name     string `json:"name"`
	Type     string `json:"type"` // these are of base chains only
	Hook     string `json:"hook"`
	Priority int    `json:"prio"`
	Policy   string `json:"policy"`
}

type listedSet struct {
	place
	Name     string            `json:"name"`
	Type     json.RawMessage   `json:"type"`
	Elements []json.RawMessage `json:"elem"`
}

type listedRule struct {
	place
	Chain      string            `json:"chain"`
	Handle     int64             `json:"handle"`
	Statements []json.RawMessage `json:"expr"`
}

// Read reads what nft -j list ruleset prints.
func Read(r io.Reader) (*Listing, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxListingBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the firewall's rules: %w", err)
	case len(text) > maxListingBytes:
		return nil, fmt.Errorf("reading the firewall's rules: more than %d bytes", maxListingBytes)
	}
	var file struct {
		Objects []map[string]json.RawMessage `json:"nftables"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, errors.New("reading the firewall's rules: not the JSON of nft")
	}
	if file.Objects == nil {
		return nil, errors.New("reading the firewall's rules: not a list of nft")
	}
	l := &Listing{rules: map[inChain][]listedRule{}}
	for _, object := range file.Objects {
		for kind, text := range object {
			if err := l.add(kind, text); err != nil {
				return nil, fmt.Errorf("reading the firewall's rules: a %q of another form than nft's", kind)
			}
		}
	}
	return l, nil
}

func (l *Listing) add(kind string, text json.RawMessage) error {
	switch kind {
	case "metainfo":
		return nil
	case "table":
		return appendObject(&l.tables, text)
	case "chain":
		return appendObject(&l.chains, text)
	case "set":
		return appendObject(&l.sets, text)
	case "rule":
		var one listedRule
		if err := json.Unmarshal(text, &one); err != nil {
			return err
		}
		at := inChain{one.place, one.Chain}
		l.rules[at] = append(l.rules[at], one)
		return nil
	}
	var at place
	if err := json.Unmarshal(text, &at); err != nil {
		return err
	}
	if at.ours() {
		l.others = append(l.others, kind)
	}
	return nil
}

func appendObject[T any](list *[]T, text json.RawMessage) error {
	var one T
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	*list = append(*list, one)
	return nil
}
