package appsecret

import "encoding/binary"

// What a secret says, before its authentication code: fixed parts, then two texts, each after a
// byte with its length.
const (
	randomBytes = 16
	fixedBytes  = 1 + 4 + 8 + randomBytes
)

func (h Holder) encode(random [randomBytes]byte) []byte {
	said := make([]byte, 0, fixedBytes+2+len(h.Identity)+len(h.Process))
	said = append(said, byte(h.Lifetime))
	said = binary.BigEndian.AppendUint32(said, h.UID)
	said = binary.BigEndian.AppendUint64(said, h.CgroupID)
	said = append(said, random[:]...)
	for _, text := range []string{h.Identity, h.Process} {
		said = append(said, byte(len(text))) //nolint:gosec // at most 128
		said = append(said, text...)
	}
	return said
}

// decode reads what encode has written, and nothing else.
func decode(said []byte) (Holder, error) {
	if len(said) < fixedBytes {
		return Holder{}, ErrUnknown
	}
	h := Holder{
		Lifetime: Lifetime(said[0]),
		UID:      binary.BigEndian.Uint32(said[1:]),
		CgroupID: binary.BigEndian.Uint64(said[5:]),
	}
	rest := said[fixedBytes:]
	var ok bool
	if h.Identity, rest, ok = cutText(rest, maxIdentityBytes); !ok {
		return Holder{}, ErrUnknown
	}
	if h.Process, rest, ok = cutText(rest, maxProcessBytes); !ok || len(rest) > 0 {
		return Holder{}, ErrUnknown
	}
	if h.Lifetime != Process && h.Lifetime != Unit || h.Identity == "" {
		return Holder{}, ErrUnknown
	}
	return h, nil
}

func cutText(data []byte, limit int) (text string, rest []byte, ok bool) {
	if len(data) == 0 || int(data[0]) > limit || int(data[0]) > len(data)-1 {
		return "", nil, false
	}
	end := 1 + int(data[0])
	return string(data[1:end]), data[end:], true
}
