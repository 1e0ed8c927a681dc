package signer

import (
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
)

// pssSaltLength recovers the salt's length from a PSS signature and the public key (RFC 8017,
// 9.1.2): DB = PS ‖ 01 ‖ salt, where PS is zeros.
func pssSaltLength(public *rsa.PublicKey, h crypto.Hash, signature []byte) (int, error) {
	s := new(big.Int).SetBytes(signature)
	if len(signature) != public.Size() || s.Cmp(public.N) >= 0 {
		return 0, errors.New("not a signature of this key's size")
	}
	s.Exp(s, big.NewInt(int64(public.E)), public.N)
	emBits := public.N.BitLen() - 1
	if s.BitLen() > emBits {
		return 0, errors.New("not a PSS encoding")
	}
	em := s.FillBytes(make([]byte, (emBits+7)/8))
	split := len(em) - h.Size() - 1
	if split <= 0 || em[len(em)-1] != 0xbc {
		return 0, errors.New("not a PSS encoding")
	}
	db := em[:split]
	unmask(db, em[split:len(em)-1], h)
	db[0] &= 0xff >> (8*len(em) - emBits)
	padding := slices.IndexFunc(db, func(b byte) bool { return b != 0 })
	if padding < 0 || db[padding] != 1 {
		return 0, errors.New("not a PSS encoding")
	}
	return len(db) - padding - 1, nil
}

// unmask removes MGF1 with the seed from db (RFC 8017, B.2.1).
func unmask(db, seed []byte, h crypto.Hash) {
	for counter := uint32(0); len(db) > 0; counter++ {
		block := h.New()
		block.Write(seed)
		block.Write(binary.BigEndian.AppendUint32(nil, counter))
		mask := block.Sum(nil)
		n := min(len(db), len(mask))
		for i := range n {
			db[i] ^= mask[i]
		}
		db = db[n:]
	}
}
