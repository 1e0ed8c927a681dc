package appsecret

// Encode and Decode are the format of what is authenticated.
func Encode(h Holder) []byte { return h.encode([randomBytes]byte{}) }

// EncodeWith is Encode with the random part of another.
func EncodeWith(h Holder, said []byte) []byte {
	return h.encode([randomBytes]byte(said[fixedBytes-randomBytes : fixedBytes]))
}

// Text is the secret that says so.
func (k *Keeper) Text(said []byte) string { return k.text(said) }

// Decode is the opposite of Encode.
func Decode(said []byte) (Holder, error) { return decode(said) }
