// Where the provider keeps its records: everything, for ever, so that a token used twice is always known as such.
// (The adapter that comes with oidc-provider forgets after a thousand records.)

const records = new Map();

const keyOf = (model, id) => `${model}:${id}`;

/** The storage of one model, as oidc-provider asks for it. */
export class Store {
  constructor(model) {
    this.model = model;
  }

  async upsert(id, payload) {
    records.set(keyOf(this.model, id), payload);
  }

  async find(id) {
    return records.get(keyOf(this.model, id));
  }

  async findByUid(uid) {
    return this.#first((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.#first((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    records.get(keyOf(this.model, id)).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    records.delete(keyOf(this.model, id));
  }

  async revokeByGrantId(grantId) {
    for (const [key, payload] of records) {
      if (key.startsWith(`${this.model}:`) && payload.grantId === grantId) {
        records.delete(key);
      }
    }
  }

  #first(matches) {
    const prefix = `${this.model}:`;
    for (const [key, payload] of records) {
      if (key.startsWith(prefix) && matches(payload)) {
        return payload;
      }
    }
    return undefined;
  }
}
