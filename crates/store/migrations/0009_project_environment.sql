-- What a project is for, in its owner's word: production, staging.
alter table project add column environment text;
